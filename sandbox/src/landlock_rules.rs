//! Landlock, as both kinds of child use it: everything of the kernel's version
//! (or of the mask's) is forbidden, but for what the rules allow.
//! (<https://docs.kernel.org/userspace-api/landlock.html>)

use std::io;
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, Scope,
};

use crate::isolation::Mask;

/// What may be done below a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    Read,
    Execute,
    Write,
}

/// The version of Landlock's interface that this process may use, if any.
pub(crate) fn version(mask: Mask) -> Result<u8, String> {
    const CREATE_RULESET_VERSION: libc::c_uint = 1;
    if mask.landlock == 0 {
        return Err("masked by TERRARIUM_MASK".into());
    }
    // SAFETY: with this flag the call takes no pointer and returns a number.
    // Exercised by `a_mask_lowers_the_version` below.
    let found = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0_usize,
            CREATE_RULESET_VERSION,
        )
    };
    match u8::try_from(found) {
        Ok(version) => Ok(version.min(mask.landlock)),
        Err(_) => Err(io::Error::last_os_error().to_string()),
    }
}

/// Binds this thread and those it starts. Returns the version enforced. Paths
/// that do not exist are left out.
pub(crate) fn restrict(mask: Mask, rules: &[(PathBuf, Right)]) -> Result<u8, String> {
    let version = version(mask)?;
    let abi = match version {
        0 => return Err("version 0".into()),
        1 => ABI::V1,
        2 => ABI::V2,
        3 => ABI::V3,
        4 => ABI::V4,
        5 => ABI::V5,
        // What later ones add is not a right.
        _ => ABI::V6,
    };
    let text = |error: landlock::RulesetError| error.to_string();
    // All or nothing: the version says what this kernel has.
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(abi))
        .map_err(text)?;
    if abi >= ABI::V4 {
        ruleset = ruleset.handle_access(AccessNet::from_all(abi)).map_err(text)?;
    }
    if abi >= ABI::V6 {
        ruleset = ruleset.scope(Scope::from_all(abi)).map_err(text)?;
    }
    let mut created = ruleset.create().map_err(text)?;
    for (path, right) in rules {
        let Ok(data) = std::fs::metadata(path) else { continue };
        let mut rights: BitFlags<AccessFs> = match right {
            Right::Read => AccessFs::ReadFile | AccessFs::ReadDir,
            Right::Execute => AccessFs::Execute | AccessFs::ReadFile,
            Right::Write => {
                AccessFs::ReadFile
                    | AccessFs::ReadDir
                    | AccessFs::WriteFile
                    | AccessFs::Truncate
                    | AccessFs::MakeReg
                    | AccessFs::MakeDir
                    | AccessFs::RemoveFile
                    | AccessFs::RemoveDir
                    | AccessFs::Refer
            }
        };
        rights &= AccessFs::from_all(abi);
        if !data.is_dir() {
            rights &= AccessFs::from_file(abi);
        }
        let file = PathFd::new(path).map_err(|e| e.to_string())?;
        (&mut created).add_rule(PathBeneath::new(file, rights)).map(drop).map_err(text)?;
    }
    created.restrict_self().map(drop).map_err(text)?;
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_lowers_the_version() {
        let masked = |landlock| version(Mask { landlock, ..Mask::NONE });
        assert!(masked(0).unwrap_err().contains("masked"));
        if let Ok(full) = masked(u8::MAX) {
            assert!(full >= 1);
            assert_eq!(masked(1), Ok(1));
        }
    }
}
