//! Real servers for tests: Redis alone, with Sentinels, as a cluster, with TLS and access control;
//! S3 as SeaweedFS and moto speak it; and a proxy that harms what passes through it.
//!
//! Each has a directory and ports of its own, is ready when it was started, and ends with its value,
//! or with the thread that started it. `scripts/test.sh` installs the programs; one that is missing
//! fails the test and says so. All calls block.

mod process;
mod proxy;
mod redis;
mod s3;

pub use process::{Process, free_port, until};
pub use proxy::{Fault, Proxy};
pub use redis::{Redis, RedisCluster, RedisSentinels};
pub use s3::{KEY, Moto, SECRET, Seaweed};
