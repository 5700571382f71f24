//! netbuild as its users meet it: real processes, real sockets, real files.

mod support;
