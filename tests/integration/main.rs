//! netbuild as its users meet it: real processes, real sockets, real files.

mod agent;
mod bad_graphs;
mod integrity;
mod interruption;
mod layers;
mod regions;
mod restore;
mod run;
mod sample;
mod support;
