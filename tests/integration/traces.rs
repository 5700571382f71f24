//! What a collector of OpenTelemetry gets from runs and agents.

use crate::support::{Agent, PATIENCE, Place, Run, wait_until};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value as Any},
    trace::v1::Span,
};
use prost::Message as _;
use serde_json::json;
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Instant,
};

/// A span with the name of the service that sent it.
type Received = (String, Span);

/// Takes what comes by OTLP over HTTP, as a collector does.
struct Collector {
    address: String,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let received = Arc::<Mutex<Vec<Received>>>::default();
        let kept = Arc::clone(&received);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let kept = Arc::clone(&kept);
                thread::spawn(move || while take(&stream, &kept).is_some() {});
            }
        });
        Self { address, received }
    }

    fn spans(&self) -> Vec<Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One request; `None` when there is none any more.
fn take(mut stream: &TcpStream, kept: &Mutex<Vec<Received>>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).ok().filter(|count| *count > 0)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        }
        if name.eq_ignore_ascii_case("content-type") {
            assert_eq!(value.trim(), "application/x-protobuf");
        }
    }
    assert!(first.starts_with("POST /v1/traces "), "{first}");
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let request = ExportTraceServiceRequest::decode(&body[..]).expect("OTLP");
    for of_resource in request.resource_spans {
        let attributes = of_resource.resource.unwrap_or_default().attributes;
        let service = named(&attributes, "service.name");
        let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        let service = service.expect("a name of the service");
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(spans.map(|span| (service.clone(), span)));
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").ok()
}

fn text(value: &Option<Any>) -> String {
    match value {
        Some(Any::StringValue(text)) => text.clone(),
        Some(Any::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn named(attributes: &[KeyValue], name: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == name)?;
    Some(text(&found.value.clone().and_then(|v| v.value)))
}

/// What an attribute of a span says; empty when it has none of this name.
fn said(span: &Span, name: &str) -> String {
    named(&span.attributes, name).unwrap_or_default()
}

#[test]
fn a_run_and_the_agents_behind_it_are_traced() {
    let place = Place::new();
    let collector = Collector::start();
    let graph = json!({"tasks": {
        "made": {"command": "head -c 200000 /dev/urandom > made", "inputs": [], "outputs": ["made"]},
        "read": {"command": "wc -c < made > read", "deps": ["made"], "inputs": [], "outputs": ["read"]},
        "bad": {"command": "exit 3", "inputs": [], "outputs": []},
    }});
    let east = place.workspace("east", &graph, &[]);
    let west = place.workspace("west", &graph, &[]);
    let first = Agent::start("us-east", &east.data_dir, &[]);
    assert_eq!(east.run(&["read"]).expect_success().executed(), 2);
    let mut second = Agent::on_loopback("us-west", &west.data_dir, &[&first.ticket]);
    second
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.address)
        .env("OTEL_BSP_SCHEDULE_DELAY", "50");
    let _second = Agent::spawn(second, &west.data_dir);

    let mut command = west.command(&["--json", "-k", "read", "bad"]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.address);
    command.env("TRACEPARENT", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    let run = Run::of(&mut command);
    assert_eq!((run.count("/hits/peer"), run.count("/failed")), (2, 1), "{}", run.summary);

    let spans = collector.spans();
    let of = |name: &str| {
        let found = spans.iter().find(|(service, span)| service == "netbuild" && span.name == name);
        &found.unwrap_or_else(|| panic!("no span `{name}` in {spans:?}")).1
    };
    let whole = of("netbuild run");
    assert_eq!(
        whole.trace_id.iter().map(|b| format!("{b:02x}")).collect::<String>(),
        "4bf92f3577b34da6a3ce929d0e0e4736"
    );
    assert_eq!(said(whole, "netbuild.failed"), "1");
    for (task, how) in [("made", "from a peer"), ("read", "from a peer"), ("bad", "failed")] {
        let span = of(task);
        assert_eq!(
            (&span.parent_span_id, said(span, "netbuild.how").as_str()),
            (&whole.span_id, how)
        );
        assert!(whole.start_time_unix_nano <= span.start_time_unix_nano, "{task}");
        assert!(span.end_time_unix_nano <= whole.end_time_unix_nano, "{task}");
    }
    assert_eq!(said(of("made"), "netbuild.region"), "us-east");
    assert!(of("bad").status.as_ref().is_some_and(|status| status.code == 2));

    // The agent tells which source it asked.
    wait_until("the agent's spans are there", || {
        let spans = collector.spans();
        let mut asked = spans.iter().filter(|(service, span)| {
            service == "netbuild-agent" && said(span, "netbuild.region") == "us-east"
        });
        asked.any(|(_, span)| said(span, "netbuild.outcome") == "fetched")
    });
}

#[test]
fn a_collector_that_never_answers_costs_a_run_little_and_fails_nothing() {
    let place = Place::new();
    // Connections are taken by the system, and nobody reads them.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = format!("http://{}", listener.local_addr().expect("an address"));
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let nobody = format!("http://{free}");
    let task = json!({"command": "touch out", "inputs": [], "outputs": ["out"]});
    let workspace = place.workspace("w", &json!({"tasks": {"t": task}}), &[]);
    for (endpoint, warns) in [(silent, false), (nobody, true), ("no address".to_owned(), true)] {
        let mut command = workspace.command(&["--json"]);
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint);
        let began = Instant::now();
        let run = Run::of(&mut command).expect_success();
        // It has seconds for the collector, and the test a machine that is busy.
        assert!(began.elapsed() < PATIENCE / 4, "{endpoint}");
        assert!(!warns || run.stderr.contains("traces"), "{endpoint}: {}", run.stderr);
    }
}
