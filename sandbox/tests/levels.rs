//! Every level of isolation, reached by masking features, and attacked from
//! inside: which attacks does it stop? The answer is the table in
//! `docs/isolation.md`; `UPDATE_DOCS=1` writes it anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use terrarium_sandbox::probe::{self, PROCESSES};
use terrarium_sandbox::{Isolation, Level};

/// Name in the table, level, and the mask that reaches it on a machine with
/// everything.
const COLUMNS: &[(&str, Level, &str)] = &[
    ("full", Level::Full, ""),
    ("strong", Level::Strong, "namespaces"),
    ("strong (Landlock 1)", Level::Strong, "namespaces,landlock:1"),
    ("namespaces", Level::Namespaces, "landlock"),
    ("namespaces (bubblewrap)", Level::Namespaces, "landlock,namespaces"),
    ("minimal", Level::Minimal, "landlock,namespaces,bubblewrap"),
];

/// What a compiler does all day.
const ALLOWED_IN_THE_JAIL: &[&str] =
    &["thread", "fork", "executable-memory", "make-memory-executable", "list-root"];

/// These wait for something.
const NOT_ATTACKS: &[&str] = &["nothing", "linger"];

struct Range {
    folder: PathBuf,
    victim: Child,
    aim: Vec<String>,
    secret: fs::File,
}

impl Drop for Range {
    fn drop(&mut self) {
        let _ = self.victim.kill();
        let _ = self.victim.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// As a user without rights, so that the answers are the same for root.
fn unprivileged(command: &mut Command) -> &mut Command {
    if rustix::process::geteuid().is_root() {
        command.uid(65_534).gid(65_534);
    }
    command
}

impl Range {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("terrarium-levels-").tempdir().expect("a folder").keep();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).expect("chmod");
        // Where every user can start it.
        let cell = folder.join("cell");
        let built = env!("CARGO_BIN_EXE_terrarium-cell");
        if fs::hard_link(built, &cell).is_err() {
            // By another process: a file that this one has open for writing
            // could not be started while another test starts something.
            let copied = Command::new("cp").args([Path::new(built), &cell]).status();
            assert!(copied.is_ok_and(|status| status.success()), "copy the cell");
        }
        let mut victim = unprivileged(&mut Command::new(&cell))
            .arg("victim")
            .env("TERRARIUM_TEST_API_KEY", "sk-planted")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the victim starts");
        let mut line = String::new();
        BufReader::new(victim.stdout.as_mut().expect("piped")).read_line(&mut line).expect("it speaks");
        let mut aim: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        assert_eq!(aim.len(), 3, "{line}");
        fs::write(folder.join("secret"), "sk-planted").expect("write");
        let secret = fs::File::open(folder.join("secret")).expect("open");
        // Left open in the engine, as a careless library would leave it.
        rustix::io::fcntl_setfd(&secret, rustix::io::FdFlags::empty()).expect("no CLOEXEC");
        aim.push(format!("descriptor={}", secret.as_raw_fd()));
        aim.push(format!("folder={}", folder.display()));
        Self { folder, victim, aim, secret }
    }

    fn cell(&self) -> PathBuf {
        self.folder.join("cell")
    }

    /// Exit code of one attack: 0 it worked.
    fn attack(&self, process: &str, isolation: &str, name: &str) -> (i32, String) {
        assert!(self.secret.as_raw_fd() > 2);
        let _ = fs::remove_file(self.folder.join("planted"));
        let output = unprivileged(&mut Command::new(self.cell()))
            .args(["attack", process, isolation, name])
            .args(&self.aim)
            .env("TERRARIUM_TEST_API_KEY", "sk-planted")
            .stdin(Stdio::null())
            .output()
            .expect("the cell starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let locked = String::from_utf8_lossy(&output.stdout).contains("locked down");
        let code = output.status.code().unwrap_or(-1);
        assert!(locked && code != 3, "{process} {isolation} {name}: {} {said}", output.status);
        (code, said)
    }

    fn attacks(&self) -> Vec<String> {
        let output = Command::new(self.cell()).arg("list").output().expect("the cell starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().filter(|name| !NOT_ATTACKS.contains(name)).map(str::to_owned).collect()
    }
}

fn isolation(mask: &str) -> Isolation {
    format!("none/{mask}").parse().expect("an isolation")
}

/// The columns that this machine can show: each mask must reach its level.
fn columns() -> &'static Vec<(&'static str, Level, &'static str)> {
    static COLUMNS_HERE: OnceLock<Vec<(&str, Level, &str)>> = OnceLock::new();
    COLUMNS_HERE.get_or_init(|| {
        let cell = Path::new(env!("CARGO_BIN_EXE_terrarium-cell"));
        COLUMNS
            .iter()
            .copied()
            .filter(|(name, level, mask)| {
                let held = probe::processes(cell, isolation(mask));
                let reached = probe::level(&held);
                if reached != *level {
                    eprintln!("not tried here: {name} (this machine reaches {reached}): {held:?}");
                }
                reached == *level
            })
            .collect()
    })
}

#[test]
fn every_level_stops_what_the_table_says() {
    let range = Range::new();
    let names = range.attacks();
    let mut works: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (column, _, mask) in columns() {
        let setting = format!("none/{mask}");
        // The attacker is there and alive.
        assert_eq!(range.attack("jail", &setting, "nothing").0, 0, "{column}");
        for name in names.iter().filter(|name| !ALLOWED_IN_THE_JAIL.contains(&name.as_str())) {
            if range.attack("jail", &setting, name).0 == 0 {
                works.entry(name).or_default().insert(column);
            }
        }
        // The other two are killed at the first call that they do not need,
        // whatever else is missing.
        for process in ["worker", "codegen"] {
            assert_eq!(range.attack(process, &setting, "nothing").0, 0, "{process} {column}");
            for name in &names {
                let (code, _) = range.attack(process, &setting, name);
                assert_ne!(code, 0, "{process} {column}: {name} worked");
                if !name.starts_with("key-in-env") {
                    assert_eq!(code, 128 + libc::SIGSYS, "{process} {column}: {name}");
                }
            }
        }
    }
    // Never, at any level above none.
    for never in
        ["signal-victim", "trace-victim", "tcp", "abstract-socket", "inherited-descriptor", "io-uring"]
    {
        assert!(!works.contains_key(never), "{never}: {works:?}");
    }
    let full = works.iter().filter(|(_, columns)| columns.contains("full")).map(|(name, _)| *name);
    assert_eq!(full.collect::<Vec<_>>(), Vec::<&str>::new(), "attacks that work at level full");
    check_table(&names, &works);
}

/// Compares with, or rewrites, the table of the document.
fn check_table(names: &[String], works: &BTreeMap<&str, BTreeSet<&str>>) {
    const BEGIN: &str = "<!-- attacks: begin (written by sandbox/tests/levels.rs) -->\n";
    const END: &str = "<!-- attacks: end -->";
    if columns().len() < COLUMNS.len() {
        eprintln!("the table of the document is not compared: this machine lacks a feature");
        return;
    }
    let mut rows = String::from("| attack from inside the jail |");
    COLUMNS.iter().for_each(|(column, ..)| rows.push_str(&format!(" {column} |")));
    rows.push_str("\n| --- |");
    COLUMNS.iter().for_each(|_| rows.push_str(" --- |"));
    rows.push('\n');
    for name in names.iter().filter(|name| !ALLOWED_IN_THE_JAIL.contains(&name.as_str())) {
        rows.push_str(&format!("| {name} |"));
        for (column, ..) in COLUMNS {
            let worked = works.get(name.as_str()).is_some_and(|columns| columns.contains(column));
            rows.push_str(if worked { " **works** |" } else { " held |" });
        }
        rows.push('\n');
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/isolation.md");
    let text = fs::read_to_string(&path).expect("docs/isolation.md");
    let (before, rest) = text.split_once(BEGIN).expect("the table's begin");
    let (table, after) = rest.split_once(END).expect("the table's end");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{rows}{END}{after}")).expect("write");
        return;
    }
    assert_eq!(table, rows, "docs/isolation.md: run this test with UPDATE_DOCS=1");
}

/// The attacks are real: without layers in their way they succeed.
#[test]
fn without_any_layer_the_attacks_succeed() {
    let range = Range::new();
    let nothing = "none/landlock,seccomp,namespaces,bubblewrap";
    for name in [
        "read-passwd",
        "write-outside",
        "list-root",
        "open-device",
        "own-memory-file",
        "list-processes",
        "key-in-engine-environ",
        "inherited-descriptor",
        "execute",
        "memfd-execute",
        "tcp",
        "udp-socket",
        "abstract-socket",
        "signal-victim",
        "signal-everybody",
        "signal-thread-of-victim",
        "signal-by-descriptor-owner",
        "victim-limits",
        "victim-priority",
        "victim-processors",
        "victim-descriptor",
        "keyring",
        "setns",
        "shared-memory",
    ] {
        let (code, said) = range.attack("jail", nothing, name);
        // Closed in every case: no mask opens it again.
        let closed = name == "inherited-descriptor";
        assert_eq!(code, i32::from(closed), "{name}: {said}");
    }
    // Not dumpable: its own memory belongs to root.
    assert_eq!(range.attack("worker", nothing, "own-memory-file").0, 1);
    for name in ["executable-memory", "tcp", "signal-victim", "abstract-socket"] {
        assert_eq!(range.attack("worker", nothing, name).0, 0, "{name}");
    }
    // Whatever is masked: no descriptor and no variable is handed on.
    for process in PROCESSES {
        for name in ["inherited-descriptor", "key-in-environment", "key-in-parent-environ"] {
            let told = range.attack(process, nothing, name);
            let parent = name == "key-in-parent-environ" && process != "jail";
            assert_eq!(told.0, i32::from(!parent), "{process} {name}: {}", told.1);
        }
    }
}

/// If the filter failed, the layers behind it would still hold.
#[test]
fn each_layer_holds_by_itself() {
    let range = Range::new();
    let files =
        ["read-passwd", "write-outside", "execute", "open-device", "list-processes", "key-in-engine-environ"];
    for mask in ["seccomp,namespaces", "seccomp,landlock"] {
        if probe::processes(&range.cell(), isolation(mask)).iter().any(|held| held.error.is_some()) {
            continue;
        }
        for process in ["worker", "codegen"] {
            let setting = format!("none/{mask}");
            for name in files {
                // `/proc/PID` can be named under Landlock, not read.
                if name == "list-processes" && mask == "seccomp,namespaces" {
                    continue;
                }
                assert_eq!(range.attack(process, &setting, name).0, 1, "{process} {mask}: {name}");
            }
            for name in ["signal-victim", "abstract-socket", "tcp"] {
                // A namespace of process numbers is the jail's alone.
                if name == "signal-victim" && mask == "seccomp,landlock" {
                    continue;
                }
                assert_eq!(range.attack(process, &setting, name).0, 1, "{process} {mask}: {name}");
            }
        }
    }
}

#[test]
fn a_level_that_is_not_reached_is_refused_and_a_mask_only_lowers() {
    let cell = Path::new(env!("CARGO_BIN_EXE_terrarium-cell"));
    let mut before = Level::Full;
    for (name, level, mask) in columns() {
        assert!(*level <= before, "{name}");
        before = *level;
        let at = Isolation { require: *level, ..isolation(mask) };
        assert_eq!(probe::require(cell, at), Ok(*level), "{name}");
        if let Some(above) = Level::ALL.into_iter().find(|above| above > level) {
            let refused = probe::require(cell, Isolation { require: above, ..at }).expect_err(name);
            assert!(refused.contains(&format!("`{above}` is required")), "{refused}");
            let setting = format!("{above}/{mask}");
            let output =
                Command::new(cell).args(["attack", "jail", &setting, "nothing"]).output().expect("starts");
            assert_eq!(output.status.code(), Some(3), "{name}: {output:?}");
        }
    }
    assert_eq!(probe::level(&probe::processes(cell, isolation("seccomp"))), Level::None);
}

/// Processes whose command line holds a word.
fn marked(word: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("list the processes").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if line.windows(word.len()).any(|window| window == word.as_bytes()) {
            found.push(pid);
        }
    }
    found
}

/// The engine is killed while a compiler runs that has started a linker.
#[test]
fn nothing_outlives_an_engine_that_is_killed() {
    let cell = Path::new(env!("CARGO_BIN_EXE_terrarium-cell"));
    for (at, mask) in ["", "namespaces", "landlock,namespaces", "landlock,namespaces,bubblewrap,seccomp"]
        .into_iter()
        .enumerate()
    {
        // At the end, when everything runs; and at some moments of the start.
        for delay in [None, Some(0), Some(2), Some(4), Some(7), Some(11), Some(16)] {
            let mark = format!("mark-{}-{at}-{}", std::process::id(), delay.unwrap_or(99));
            let mut engine = Command::new(cell)
                .args(["attack", "jail", &format!("none/{mask}"), "linger", &mark])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("the cell starts");
            match delay {
                Some(milliseconds) => std::thread::sleep(Duration::from_millis(milliseconds)),
                None => {
                    let patience = Instant::now() + Duration::from_secs(10);
                    // The engine, the program, and what it started.
                    while marked(&mark).len() < 3 {
                        assert!(Instant::now() < patience, "{mask}: {:?}", marked(&mark));
                        std::thread::sleep(Duration::from_millis(2));
                    }
                }
            }
            engine.kill().expect("killed");
            let pid = engine.id();
            engine.wait().expect("reaped");
            let patience = Instant::now() + Duration::from_secs(3);
            let job = format!("terrarium-job-{pid}-");
            while !(marked(&mark).is_empty() && marked(&job).is_empty()) {
                assert!(
                    Instant::now() < patience,
                    "{mask} {delay:?}: left {:?} {:?}",
                    marked(&mark),
                    marked(&job)
                );
                std::thread::sleep(Duration::from_millis(2));
            }
            // What a killed engine leaves is a folder, which the next one sweeps.
            for entry in fs::read_dir(std::env::temp_dir()).expect("list").flatten() {
                if entry.file_name().to_string_lossy().starts_with(&job) {
                    let _ = fs::remove_dir_all(entry.path());
                }
            }
        }
    }
}

/// A fork bomb is over when its time is, whatever it has started.
#[test]
fn a_fork_bomb_ends_with_its_job() {
    let cell = Path::new(env!("CARGO_BIN_EXE_terrarium-cell"));
    let mark = format!("mark-bomb-{}", std::process::id());
    let mut engine = Command::new(cell)
        .args(["attack", "jail", "none/", "fork-bomb", &mark])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the cell starts");
    let mut said = String::new();
    engine.stdout.take().expect("piped").read_to_string(&mut said).expect("read");
    engine.wait().expect("ends");
    assert!(said.contains("locked down"));
    assert_eq!(marked(&mark), Vec::<u32>::new());
}

/// With a delegated folder a child is in a group of its own, which goes with
/// it. Needs cgroup v2 and the right to make a folder in it.
#[test]
fn a_child_lives_and_dies_in_its_group() {
    let folder = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .map(|root| Path::new(root).join(format!("levels-{}", std::process::id())))
        .into_iter()
        .find(|path| fs::create_dir(path).is_ok() && path.join("cgroup.procs").exists());
    let Some(folder) = folder else {
        eprintln!("not tried here: no folder of cgroup v2 can be made");
        return;
    };
    let cell = Path::new(env!("CARGO_BIN_EXE_terrarium-cell"));
    let mark = format!("mark-group-{}", std::process::id());
    let mut engine = Command::new(cell)
        .args(["attack", "jail", "none/", "linger", &mark])
        .env("TERRARIUM_CGROUP", &folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the cell starts");
    let group = folder.join(format!("terrarium-{}-0", engine.id()));
    let members = || fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines().count();
    let patience = Instant::now() + Duration::from_secs(10);
    // The launcher, the program, and what it started.
    while members() < 3 && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(2));
    }
    let seen = members();
    engine.kill().expect("killed");
    engine.wait().expect("reaped");
    // The next engine removes what this one left.
    let next = Command::new(cell)
        .args(["attack", "jail", "none/", "nothing"])
        .env("TERRARIUM_CGROUP", &folder)
        .output()
        .expect("the cell starts");
    let left: Vec<_> = fs::read_dir(&folder)
        .expect("list")
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.path())
        .collect();
    let removed = fs::remove_dir(&folder);
    assert!(seen >= 3, "{seen} in the group");
    assert_eq!(next.status.code(), Some(0), "{next:?}");
    assert_eq!(left, Vec::<PathBuf>::new());
    removed.expect("the folder is empty");
}
