//! Where the control socket of a data directory stands.

use netbuild_core::digest::Hash;
use std::{
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

/// Longest path of a socket: `sockaddr_un` has 108 bytes with the final NUL, 104 on macOS.
const MAX_PATH: usize = 103;

/// The path of the control socket of `data_dir`, an absolute path: in it, or, when that would be
/// too long for a socket, in the directory for temporary files under a name made from it.
pub fn path(data_dir: &Path) -> PathBuf {
    let inside = data_dir.join("control.sock");
    if inside.as_os_str().len() <= MAX_PATH {
        return inside;
    }
    let name = Hash::of(data_dir.as_os_str().as_bytes()).short();
    let user = rustix::process::geteuid().as_raw();
    PathBuf::from(format!("/tmp/netbuild-{user}-{name}.sock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deep_data_directory_has_a_socket_that_can_be_bound() {
        let deep = Path::new("/data").join("x".repeat(200));
        assert!(path(&deep).as_os_str().len() <= MAX_PATH);
        assert_ne!(path(&deep), path(&deep.join("y")));
        assert_eq!(path(Path::new("/data")), Path::new("/data/control.sock"));
    }
}
