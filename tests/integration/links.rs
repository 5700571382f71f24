//! The mesh on emulated wide-area links: each test in network namespaces of its own.

mod ahead;
mod benchmark;
mod choice;
mod copying;
mod demo;
mod failover;
mod order;
mod partition;
mod sites;
mod sooner;
