//! How the services talk: framed requests and responses over anything that can be read and written.
//!
//! It moves bytes and does not know what they mean.

mod backoff;
mod endpoint;
mod frame;
mod rpc;

pub use backoff::Backoff;
pub use endpoint::{Connection, Endpoint, EndpointError};
pub use frame::{MAX_FRAME, read_frame, write_frame};
pub use rpc::{call, serve, serve_stdio, serve_tcp};
