//! netbuild as its users meet it: real processes, real sockets, real files.

mod agent;
mod bad_graphs;
mod doctor;
mod door;
mod graphs;
mod hermeticity;
mod hostile;
mod integrity;
mod interruption;
mod large;
mod layers;
mod links;
mod model;
mod package;
mod regions;
mod restore;
mod run;
mod running;
mod sample;
mod shared;
mod support;
mod terminal;
mod transfers;
mod upkeep;
mod wan;
mod why;
