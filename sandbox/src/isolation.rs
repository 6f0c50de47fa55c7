//! How strongly the processes that meet untrusted code are held, in words that
//! a user can require: a [`Level`] is reached by putting [layers](Layer) in
//! place, and [`Standing`] is what one process really has.
//!
//! A [`Mask`] makes a kernel's features count as missing. It can only take
//! away: a masked layer is not put in place and not counted, so the level that
//! is reported is the level that holds. The parent decides it and hands it to
//! its children as an argument; nothing that a candidate says can reach it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How strongly a process is held. Ordered: a later one holds all that an
/// earlier one does. `docs/isolation.md` has the table of attacks that each
/// level stops; a test keeps it true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// The system-call filter is missing. Resource limits and the deadline only.
    None,
    /// System-call filter and resource limits. The compiler can read every file
    /// that this user can read.
    Minimal,
    /// And a root folder of its own, in a mount namespace, that shows nothing
    /// but what the process needs (or the same through bubblewrap).
    Namespaces,
    /// And Landlock, of any version.
    Strong,
    /// Landlock of version 6 or newer (with signals and abstract sockets in
    /// scope), and a root folder and namespaces of its own.
    Full,
}

impl Level {
    /// All of them, weakest first.
    pub const ALL: [Self; 5] = [Self::None, Self::Minimal, Self::Namespaces, Self::Strong, Self::Full];

    /// What is required unless somebody says otherwise.
    pub const DEFAULT: Self = Self::Namespaces;

    /// Its name in options, documents and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Minimal => "minimal",
            Self::Namespaces => "namespaces",
            Self::Strong => "strong",
            Self::Full => "full",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Level {
    type Err = IsolationError;

    fn from_str(text: &str) -> Result<Self, IsolationError> {
        Self::ALL
            .into_iter()
            .find(|level| level.name() == text)
            .ok_or_else(|| IsolationError::Level(crate::clean(text, 40)))
    }
}

impl Serialize for Level {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Level {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A setting that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IsolationError {
    /// No level has this name.
    #[error("there is no isolation level `{0}`; the levels are none, minimal, namespaces, strong and full")]
    Level(String),
    /// No feature has this name.
    #[error(
        "there is no feature `{0}` to mask; the features are landlock, landlock:VERSION, seccomp, namespaces, \
         bubblewrap and cgroup"
    )]
    Mask(String),
}

/// Features of the kernel that count as missing. Written as a list:
/// `landlock:3,namespaces` leaves Landlock up to version 3 and no namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mask {
    /// The newest version of Landlock that may be used; 0: none.
    pub landlock: u8,
    /// No system-call filter.
    pub seccomp: bool,
    /// No namespaces that this process makes itself.
    pub namespaces: bool,
    /// No bubblewrap.
    pub bubblewrap: bool,
    /// No control group.
    pub cgroup: bool,
}

impl Mask {
    /// Nothing is masked.
    pub const NONE: Self =
        Self { landlock: u8::MAX, seccomp: false, namespaces: false, bubblewrap: false, cgroup: false };
}

impl Default for Mask {
    fn default() -> Self {
        Self::NONE
    }
}

impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        match self.landlock {
            u8::MAX => {}
            0 => words.push("landlock".to_owned()),
            version => words.push(format!("landlock:{version}")),
        }
        for (masked, word) in [
            (self.seccomp, "seccomp"),
            (self.namespaces, "namespaces"),
            (self.bubblewrap, "bubblewrap"),
            (self.cgroup, "cgroup"),
        ] {
            if masked {
                words.push(word.to_owned());
            }
        }
        f.write_str(&words.join(","))
    }
}

impl FromStr for Mask {
    type Err = IsolationError;

    fn from_str(text: &str) -> Result<Self, IsolationError> {
        let mut mask = Self::NONE;
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word {
                "landlock" => mask.landlock = 0,
                "seccomp" => mask.seccomp = true,
                "namespaces" => mask.namespaces = true,
                "bubblewrap" => mask.bubblewrap = true,
                "cgroup" => mask.cgroup = true,
                _ => {
                    let version = word.strip_prefix("landlock:").and_then(|number| number.parse().ok());
                    let unknown = || IsolationError::Mask(crate::clean(word, 40));
                    // The lowest of several counts: a mask only takes away.
                    mask.landlock = mask.landlock.min(version.ok_or_else(unknown)?);
                }
            }
        }
        Ok(mask)
    }
}

/// What a sandbox demands of its child processes. The default requires
/// [`Level::DEFAULT`] and masks nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Isolation {
    /// A child that cannot reach this level refuses to work.
    pub require: Level,
    /// What counts as missing.
    pub mask: Mask,
}

impl Default for Isolation {
    fn default() -> Self {
        Self { require: Level::DEFAULT, mask: Mask::NONE }
    }
}

impl Isolation {
    /// The default, with the level of `TERRARIUM_REQUIRE_ISOLATION` and the
    /// mask of `TERRARIUM_MASK`, where they are set.
    ///
    /// # Errors
    /// A value that names no level, or no feature.
    pub fn from_env() -> Result<Self, IsolationError> {
        let read = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
        Ok(Self {
            require: read("TERRARIUM_REQUIRE_ISOLATION").map_or(Ok(Level::DEFAULT), |text| text.parse())?,
            mask: read("TERRARIUM_MASK").map_or(Ok(Mask::NONE), |text| text.parse())?,
        })
    }
}

/// `LEVEL/MASK`, as a child gets it.
impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.require, self.mask)
    }
}

impl FromStr for Isolation {
    type Err = IsolationError;

    fn from_str(text: &str) -> Result<Self, IsolationError> {
        let (level, mask) = text.split_once('/').unwrap_or((text, ""));
        Ok(Self { require: level.parse()?, mask: mask.parse()? })
    }
}

impl Serialize for Isolation {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Isolation {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// One thing that holds a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// Files, TCP ports, signals and abstract sockets.
    Landlock,
    /// The system-call filter.
    Seccomp,
    /// A user namespace, without any capability.
    UserNamespace,
    /// A root folder of its own, with only what is needed in it.
    Root,
    /// A network namespace, without any interface.
    Network,
    /// Shared memory and message queues of its own.
    Ipc,
    /// A process-number namespace: nothing outlives its first process.
    Processes,
    /// Resource limits.
    Limits,
    /// A session of its own, death with the parent, no descriptors, no
    /// environment, no new privileges, no core dumps and no tracing.
    Process,
    /// A control group with limits of memory and processes.
    Cgroup,
}

impl Layer {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Landlock => "Landlock",
            Self::Seccomp => "seccomp",
            Self::UserNamespace => "user namespace",
            Self::Root => "own root",
            Self::Network => "network namespace",
            Self::Ipc => "IPC namespace",
            Self::Processes => "PID namespace",
            Self::Limits => "rlimits",
            Self::Process => "process",
            Self::Cgroup => "cgroup",
        }
    }
}

/// Whether a layer is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", content = "reason", rename_all = "kebab-case")]
pub enum LayerState {
    /// Enforced. The text says how.
    On(String),
    /// The machine may have it; it is not used. The text says why.
    Off(String),
    /// The machine does not have it. The text says why.
    Unavailable(String),
}

impl LayerState {
    /// Whether it is enforced.
    pub fn is_on(&self) -> bool {
        matches!(self, Self::On(_))
    }

    /// `on`, `off` or `unavailable`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::On(_) => "on",
            Self::Off(_) => "off",
            Self::Unavailable(_) => "unavailable",
        }
    }

    /// How, or why not.
    pub fn detail(&self) -> &str {
        match self {
            Self::On(text) | Self::Off(text) | Self::Unavailable(text) => text,
        }
    }
}

/// Landlock of this version also keeps signals and abstract sockets inside.
pub const LANDLOCK_SCOPES: u8 = 6;

/// What one process has in place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Each layer that was tried or left out.
    pub layers: BTreeMap<Layer, LayerState>,
    /// The version of Landlock that is enforced; 0: none.
    pub landlock: u8,
}

impl Standing {
    pub(crate) fn set(&mut self, layer: Layer, state: LayerState) {
        self.layers.insert(layer, state);
    }

    /// Notes what came of putting a layer in place.
    pub(crate) fn tried(&mut self, layer: Layer, result: Result<String, String>) {
        self.set(layer, result.map_or_else(LayerState::Unavailable, LayerState::On));
    }

    pub(crate) fn masked(&mut self, layer: Layer) {
        self.set(layer, LayerState::Off("masked by TERRARIUM_MASK".into()));
    }

    /// Whether a layer is enforced.
    pub fn has(&self, layer: Layer) -> bool {
        self.layers.get(&layer).is_some_and(LayerState::is_on)
    }

    /// The level that these layers amount to.
    pub fn level(&self) -> Level {
        if !self.has(Layer::Seccomp) {
            return Level::None;
        }
        let spaces = [Layer::UserNamespace, Layer::Root, Layer::Ipc];
        match self.landlock {
            LANDLOCK_SCOPES.. if spaces.into_iter().all(|layer| self.has(layer)) => Level::Full,
            1.. => Level::Strong,
            0 if self.has(Layer::Root) => Level::Namespaces,
            0 => Level::Minimal,
        }
    }

    /// Why a level above the one reached was not: the first layer that is
    /// missing for it, and what is wrong with it.
    pub fn missing_for(&self, level: Level) -> Option<String> {
        if self.level() >= level {
            return None;
        }
        let wanted: &[Layer] = match level {
            Level::None => &[],
            Level::Minimal => &[Layer::Seccomp],
            Level::Namespaces => &[Layer::Seccomp, Layer::Root],
            Level::Strong => &[Layer::Seccomp, Layer::Landlock],
            Level::Full => &[Layer::Seccomp, Layer::Landlock, Layer::UserNamespace, Layer::Root, Layer::Ipc],
        };
        let missing = wanted.iter().find(|layer| !self.has(**layer));
        Some(match missing {
            Some(layer) => {
                let why = self.layers.get(layer).map_or("not tried", LayerState::detail);
                format!("{}: {why}", layer.name())
            }
            None => format!("Landlock: version {} is older than {LANDLOCK_SCOPES}", self.landlock),
        })
    }

    /// Refuses to go on below a level.
    pub(crate) fn require(&self, level: Level) -> Result<(), String> {
        match self.missing_for(level) {
            None => Ok(()),
            Some(why) => Err(format!(
                "isolation `{level}` is required, this machine reaches `{}` ({why})",
                self.level()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_back_as_they_were_written() {
        for text in
            ["none/", "full/landlock", "strong/landlock:3,seccomp", "namespaces/namespaces,bubblewrap,cgroup"]
        {
            let isolation: Isolation = text.parse().unwrap();
            assert_eq!(isolation.to_string(), text);
        }
        assert_eq!("landlock:4,landlock:2,landlock:9".parse::<Mask>().unwrap().landlock, 2);
        assert!("weak".parse::<Level>().unwrap_err().to_string().contains("namespaces"));
        assert!("landlock:x".parse::<Mask>().unwrap_err().to_string().contains("landlock:VERSION"));
    }

    fn standing(landlock: u8, on: &[Layer]) -> Standing {
        let layers = on.iter().map(|layer| (*layer, LayerState::On(String::new()))).collect();
        Standing { layers, landlock }
    }

    #[test]
    fn a_level_is_what_the_layers_amount_to() {
        use Layer::*;
        let spaces = [Landlock, Seccomp, UserNamespace, Root, Ipc];
        assert_eq!(standing(6, &spaces).level(), Level::Full);
        assert_eq!(standing(5, &spaces).level(), Level::Strong);
        assert_eq!(standing(7, &[Landlock, Seccomp]).level(), Level::Strong);
        assert_eq!(standing(0, &[Seccomp, Root]).level(), Level::Namespaces);
        assert_eq!(standing(0, &[Seccomp]).level(), Level::Minimal);
        assert_eq!(standing(7, &[Landlock, Root, UserNamespace, Ipc]).level(), Level::None);
    }

    #[test]
    fn a_refusal_names_the_layer() {
        let found =
            standing(5, &[Layer::Landlock, Layer::Seccomp, Layer::UserNamespace, Layer::Root, Layer::Ipc]);
        assert!(found.require(Level::Strong).is_ok());
        let said = found.require(Level::Full).unwrap_err();
        assert_eq!(
            said,
            "isolation `full` is required, this machine reaches `strong` (Landlock: version 5 is older than 6)"
        );
        let mut found = standing(0, &[Layer::Seccomp]);
        found.masked(Layer::Root);
        assert!(found.require(Level::Namespaces).unwrap_err().contains("own root: masked"));
    }
}
