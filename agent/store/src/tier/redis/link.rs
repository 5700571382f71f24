//! Connections to Redis: made when they are needed, and made again when they broke.

use super::{
    failure,
    options::{RedisOptions, Topology},
};
use crate::tier::{Class, Meter, Operation, TierError};
use futures::{StreamExt as _, stream};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, IntoConnectionInfo as _, Pipeline,
    RedisConnectionInfo, RedisError, RedisResult, TlsCertificates, TlsMode, Value,
    aio::MultiplexedConnection,
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
    cluster_routing::{RoutingInfo, SingleNodeRoutingInfo},
    sentinel::{SentinelClientBuilder, SentinelServerType},
};
use std::time::Duration;
use tokio::{sync::Mutex, time::timeout};

/// How long a connection may take to be made, TLS and the reading of the system's certificates included.
const DIAL: Duration = Duration::from_secs(5);
/// Commands on their way at once in a cluster, where each goes to a node of its own.
const AT_ONCE: usize = 64;

/// One connection, which serves many callers at once.
#[derive(Clone)]
enum Link {
    One(MultiplexedConnection),
    Many(ClusterConnection),
}

/// One connection at most, made when needed.
#[derive(Default)]
struct Lane(Mutex<(u64, Option<Link>)>);

/// The connections of a tier. Large values have one of their own, as an answer waits for all that
/// were asked for before it on its connection.
pub(super) struct Links {
    options: RedisOptions,
    ca: Option<Vec<u8>>,
    small: Lane,
    bulk: Lane,
}

/// Which connection is taken.
#[derive(Clone, Copy)]
pub(super) enum Weight {
    /// Small questions with small answers.
    Small,
    /// Values.
    Bulk,
}

/// What each command of a batch was answered.
pub(super) type Answers = Vec<RedisResult<Value>>;

impl Links {
    pub(super) fn new(options: RedisOptions) -> Result<Self, TierError> {
        let read = |path| std::fs::read(path);
        let ca = options.ca.as_ref().map(read).transpose().map_err(|error| {
            TierError::new(options.name(), "connect", Class::Refused)
                .because("the file of its `ca` cannot be read")
                .from(error)
        })?;
        Ok(Self { options, ca, small: Lane::default(), bulk: Lane::default() })
    }

    /// Asks many things at once. All that is asked must do no harm when it is asked twice.
    pub(super) async fn ask(
        &self,
        weight: Weight,
        operation: Operation,
        meter: &Meter,
        commands: &[Cmd],
    ) -> Result<Answers, TierError> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let sent = commands.iter().map(|cmd| cmd.get_packed_command().len() as u64).sum();
        let patience = self.options.patience;
        // Twice: the commands, and once more when a connection turned out to be broken.
        let asked = timeout(
            DIAL + 2 * patience,
            self.ask_twice(weight, commands, || {
                meter.request(operation, sent);
            }),
        );
        let answers = match asked.await {
            Ok(answers) => answers.map_err(|error| self.error(operation, error))?,
            Err(_) => {
                return Err(TierError::new(
                    self.options.name(),
                    operation.as_str(),
                    Class::Unreachable,
                )
                .because(format!("no answer within {} s", (DIAL + 2 * patience).as_secs())));
            }
        };
        meter.received(operation, answers.iter().flatten().map(length).sum());
        Ok(answers)
    }

    async fn ask_twice(
        &self,
        weight: Weight,
        commands: &[Cmd],
        count: impl Fn(),
    ) -> RedisResult<Answers> {
        let mut again = true;
        loop {
            let (number, link) = self.link(weight).await?;
            count();
            let answers = link.ask(commands).await;
            let error = match &answers {
                Err(error) => Some(error),
                Ok(answers) => answers.iter().find_map(|answer| answer.as_ref().err()),
            };
            match error {
                Some(error) if failure::wants_other_connection(error) => {
                    self.forget(weight, number).await;
                    if !std::mem::take(&mut again) {
                        return answers;
                    }
                }
                // A connection on which an answer is late is full of what was asked before.
                Some(error) if error.is_timeout() => {
                    self.forget(weight, number).await;
                    return answers;
                }
                _ => return answers,
            }
        }
    }

    /// Asks one node of a cluster, or the only server.
    pub(super) async fn ask_node(
        &self,
        node: Option<(String, u16)>,
        operation: Operation,
        meter: &Meter,
        command: Cmd,
    ) -> Result<Value, TierError> {
        let Some((host, port)) = node else {
            let answers = self.ask(Weight::Small, operation, meter, &[command]).await?;
            let answer = answers.into_iter().next().unwrap_or(Ok(Value::Nil));
            return answer.map_err(|error| self.error(operation, error));
        };
        let routing = RoutingInfo::SingleNode(SingleNodeRoutingInfo::ByAddress { host, port });
        let asked = async {
            let (_, link) = self.link(Weight::Small).await?;
            meter.request(operation, command.get_packed_command().len() as u64);
            match link {
                Link::Many(mut cluster) => cluster.route_command(command, routing).await,
                Link::One(mut one) => command.query_async(&mut one).await,
            }
        };
        let answer = timeout(DIAL + self.options.patience, asked).await;
        let answer = answer
            .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()));
        let answer = answer.map_err(|error| self.error(operation, error))?;
        meter.received(operation, length(&answer));
        Ok(answer)
    }

    /// Whether there are several nodes with parts of the keys.
    pub(super) fn is_cluster(&self) -> bool {
        self.options.topology == Topology::Cluster
    }

    pub(super) fn error(&self, operation: Operation, error: RedisError) -> TierError {
        let class = failure::class(&error);
        TierError::new(self.options.name(), operation.as_str(), class)
            .because(error.to_string())
            .from(error)
    }

    fn lane(&self, weight: Weight) -> &Lane {
        match weight {
            Weight::Small => &self.small,
            Weight::Bulk => &self.bulk,
        }
    }

    async fn link(&self, weight: Weight) -> RedisResult<(u64, Link)> {
        let mut lane = self.lane(weight).0.lock().await;
        let (number, link) = &mut *lane;
        let link = match link {
            Some(link) => link.clone(),
            None => {
                *number += 1;
                let dialled = timeout(DIAL, self.dial()).await;
                let timed_out =
                    |_| RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
                link.insert(dialled.map_err(timed_out)??).clone()
            }
        };
        Ok((*number, link))
    }

    /// Drops a connection, unless somebody has made another one since.
    async fn forget(&self, weight: Weight, number: u64) {
        let mut lane = self.lane(weight).0.lock().await;
        if lane.0 == number {
            lane.1 = None;
        }
    }

    async fn dial(&self) -> RedisResult<Link> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(DIAL))
            .set_response_timeout(Some(self.options.patience));
        match &self.options.topology {
            Topology::Single => {
                let node = &self.options.nodes[0];
                let info = self.address(node).into_connection_info()?;
                let info = info.set_redis_settings(self.login());
                let client = match self.certificates() {
                    Some(certificates) => Client::build_with_tls(info, certificates)?,
                    None => Client::open(info)?,
                };
                client.get_multiplexed_async_connection_with_config(&config).await.map(Link::One)
            }
            Topology::Sentinel { master } => {
                let nodes = self.options.nodes.iter().map(|node| self.address(node));
                let mut builder =
                    SentinelClientBuilder::new(nodes, master, SentinelServerType::Master)?
                        .set_client_to_redis_db(i64::from(self.options.db));
                if let Some(user) = &self.options.user {
                    builder = builder.set_client_to_redis_username(user);
                }
                if let Some(password) = &self.options.password {
                    builder = builder.set_client_to_redis_password(password.reveal());
                }
                if self.options.tls {
                    builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
                }
                if let Some(certificates) = self.certificates() {
                    builder = builder
                        .set_client_to_redis_certificates(certificates.clone())
                        .set_client_to_sentinel_certificates(certificates);
                }
                let mut client = builder.build()?;
                client.get_async_connection_with_config(&config).await.map(Link::One)
            }
            Topology::Cluster => {
                let nodes = self.options.nodes.iter().map(|node| self.address(node));
                let mut builder = ClusterClient::builder(nodes)
                    .connection_timeout(DIAL)
                    .response_timeout(self.options.patience)
                    .overall_response_timeout(Some(self.options.patience))
                    .retries(2);
                if let Some(user) = &self.options.user {
                    builder = builder.username(user);
                }
                if let Some(password) = &self.options.password {
                    builder = builder.password(password.reveal());
                }
                if self.options.tls {
                    builder = builder.tls(TlsMode::Secure);
                }
                if let Some(certificates) = self.certificates() {
                    builder = builder.certs(certificates);
                }
                builder.build()?.get_async_connection().await.map(Link::Many)
            }
        }
    }

    fn address(&self, (host, port): &(String, u16)) -> ConnectionAddr {
        let (host, port) = (host.clone(), *port);
        if self.options.tls {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        }
    }

    fn login(&self) -> RedisConnectionInfo {
        let mut login = RedisConnectionInfo::default().set_db(i64::from(self.options.db));
        if let Some(user) = &self.options.user {
            login = login.set_username(user);
        }
        if let Some(password) = &self.options.password {
            login = login.set_password(password.reveal());
        }
        login
    }

    fn certificates(&self) -> Option<TlsCertificates> {
        let ca = self.ca.clone()?;
        self.options.tls.then_some(TlsCertificates { client_tls: None, root_cert: Some(ca) })
    }
}

impl Link {
    async fn ask(self, commands: &[Cmd]) -> RedisResult<Answers> {
        match self {
            Self::One(mut one) => {
                let mut pipeline = Pipeline::with_capacity(commands.len());
                for command in commands {
                    pipeline.add_command(command.clone());
                }
                pipeline.ignore_errors().query_async(&mut one).await
            }
            Self::Many(cluster) => {
                let asked = commands.iter().cloned().map(|command| {
                    let mut cluster = cluster.clone();
                    async move { command.query_async::<Value>(&mut cluster).await }
                });
                Ok(stream::iter(asked).buffered(AT_ONCE).collect().await)
            }
        }
    }
}

/// Bytes of content in an answer.
fn length(value: &Value) -> u64 {
    match value {
        Value::BulkString(bytes) => bytes.len() as u64,
        Value::SimpleString(text) => text.len() as u64,
        Value::Array(values) => values.iter().map(length).sum(),
        _ => 0,
    }
}
