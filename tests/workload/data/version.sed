# Turns version.txt into Rust constants; comments and blank lines leave no trace.
1i\
//! Generated from version.txt.
/^#/d
/^[[:space:]]*$/d
s|^name = \(.*\)$|/// The name of the application.\
pub const NAME: \&str = "\1";|
s|^version = \(.*\)$|/// The version of the application.\
pub const VERSION: \&str = "\1";|
