//! What people edit as text and programs need as constants.
//!
//! Both modules are written by the build from `data/*.txt`, so a change of a comment there ends at
//! the generated file: its bytes stay the same, and nothing behind it is built again.

#[path = "../../../../../out/gen/price_list.rs"]
pub mod price_list;
#[path = "../../../../../out/gen/version.rs"]
pub mod version;

/// The line that a service prints for `--version`.
pub fn version_line(service: &str) -> String {
    format!("{} {} {}", version::NAME, service, version::VERSION)
}
