//! Every byte that crosses a socket or lasts on disk as a record.
//!
//! Wire structs are private and versioned; what comes out is a type of `core` or one whose
//! invariants were checked here. A format that changes gets a new struct and a new number.

mod codec;
pub mod control;
pub mod data;
pub mod exchange;
mod frame;
pub mod gossip;
pub mod history;
pub mod listing;
pub mod log;
pub mod membership;
pub mod outbox;
pub mod parts;
pub mod record;
pub mod segment;
pub mod spawn;
pub mod ticket;
pub mod workspace;

pub use codec::DecodeError;
