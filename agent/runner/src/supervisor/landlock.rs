//! Rules by which the kernel refuses a command all files that are not named, without namespaces.

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, HandleAccessesError,
    PathBeneath, PathFd, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, Scope,
    path_beneath_rules,
};
use netbuild_proto::spawn::{Exit, Landlock};
use std::{
    ffi::OsStr,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
};

/// What is refused where the kernel knows of it; an older one refuses less, at the least all files.
const KNOWN: ABI = ABI::V6;
/// Devices that every command may write to.
const DEVICES: [&str; 8] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/ptmx",
    "/dev/pts",
];

/// The version of Landlock that the kernel has; 0 for none.
#[expect(unsafe_code, reason = "the crate tells it only to those who restrict themselves")]
pub(crate) fn version() -> u32 {
    const VERSION: u32 = 1;
    // SAFETY: with this flag the kernel reads no attributes, and makes nothing.
    let answer = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, VERSION)
    };
    u32::try_from(answer).unwrap_or(0)
}

/// Makes the rules, to be put into force by the command itself.
pub(super) fn rules(wanted: &Landlock) -> Result<OwnedFd, Exit> {
    let refused = |what: String| Exit::Refused(what, 0);
    match make(wanted) {
        Ok(Some(rules)) => Ok(rules),
        Ok(None) => Err(refused("the kernel has no Landlock".to_owned())),
        // Only the network is asked for without a way around.
        Err(RulesetError::HandleAccesses(HandleAccessesError::Net(_))) => Err(refused(
            "the kernel's Landlock does not refuse TCP, as Linux 6.7 does; a task that says \
             `\"network\": true` does not need that"
                .to_owned(),
        )),
        Err(error) => Err(refused(format!("Landlock: {error}"))),
    }
}

fn make(wanted: &Landlock) -> Result<Option<OwnedFd>, RulesetError> {
    let paths = |list: &[Vec<u8>]| -> Vec<_> {
        list.iter().map(|path| OsStr::from_bytes(path).to_owned()).collect()
    };
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))?
        .scope(Scope::Signal)?;
    if !wanted.network {
        rules = rules
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessNet::BindTcp | AccessNet::ConnectTcp)?
            .set_compatibility(CompatLevel::BestEffort)
            .scope(Scope::AbstractUnixSocket)?;
    }
    let devices = AccessFs::ReadFile
        | AccessFs::WriteFile
        | AccessFs::ReadDir
        | AccessFs::Truncate
        | AccessFs::IoctlDev;
    let mut rules = rules
        .create()?
        .add_rules(path_beneath_rules(paths(&wanted.readable), AccessFs::from_read(KNOWN)))?
        .add_rules(path_beneath_rules(paths(&wanted.writable), AccessFs::from_all(KNOWN)))?
        .add_rules(path_beneath_rules(DEVICES, devices))?;
    // Shared memory is made there.
    if let Ok(memory) = PathFd::new("/dev/shm") {
        rules = rules.add_rule(PathBeneath::new(memory, AccessFs::from_all(KNOWN)))?;
    }
    Ok(rules.into())
}
