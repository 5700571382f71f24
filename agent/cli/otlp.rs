//! Traces for OpenTelemetry: what a run or an agent did, sent to a collector by OTLP over HTTP. The variables that
//! all such programs know say where to, and turn it on.
//!
//! Spans are made when what they tell is over: the run has its times, and an agent its decisions. So nothing
//! here is in the way of a build, and a collector that does not answer costs a run [`FAREWELL`] at most.

use crate::trace::{Kind, Span};
use netbuild_proto::control::{Attempt, Decision};
use opentelemetry::{
    InstrumentationScope, KeyValue, Value as Attribute,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState},
};
use opentelemetry_otlp::SpanExporter as Otlp;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, IdGenerator as _, RandomIdGenerator, SpanData,
        SpanEvents, SpanExporter, SpanLinks, SpanProcessor as _,
    },
};
use serde_json::Value;
use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Where a collector is named: one for all that is told it, or one for traces.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
/// What turns it off in spite of that, with the value.
const OFF: [(&str, &str); 2] = [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")];
/// The span of whoever started the run, in the form of the W3C's Trace Context.
const PARENT: &str = "TRACEPARENT";
/// How long the end of a command waits for the collector.
const FAREWELL: Duration = Duration::from_secs(2);
/// Most spans that wait for the collector of an agent; of more, the latest are not told.
const QUEUE: usize = 4096;

/// Sends spans in the background.
#[derive(Debug)]
pub(crate) struct Traces {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
}

/// A span that others are below.
#[derive(Clone, Copy, Debug)]
struct Parent {
    trace: TraceId,
    span: SpanId,
    is_remote: bool,
}

impl Parent {
    /// Of the first span of a trace.
    fn none() -> Self {
        let trace = RandomIdGenerator::default().new_trace_id();
        Self { trace, span: SpanId::INVALID, is_remote: false }
    }
}

/// What is told of a span apart from its place.
#[derive(Debug)]
struct Told {
    name: String,
    kind: SpanKind,
    start: SystemTime,
    end: SystemTime,
    attributes: Vec<KeyValue>,
    failed: Option<String>,
}

impl Traces {
    /// When a variable names a collector. `who` tells this process from others.
    pub(crate) fn of(service: &'static str, who: Vec<KeyValue>) -> Option<Self> {
        Self::with_queue(service, who, QUEUE)
    }

    fn with_queue(service: &'static str, who: Vec<KeyValue>, queue: usize) -> Option<Self> {
        if !is_on() {
            return None;
        }
        let exporter = match Otlp::builder().with_http().build() {
            Ok(exporter) => exporter,
            Err(error) => {
                tracing::warn!("traces are not sent: {error}");
                return None;
            }
        };
        let config = BatchConfigBuilder::default().with_max_queue_size(queue).build();
        let exporter = Telling { exporter, is_broken: AtomicBool::new(false) };
        let mut processor = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
        // What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say comes first.
        let named = std::env::var_os("OTEL_SERVICE_NAME").is_some_and(|name| !name.is_empty());
        let resource = Resource::builder();
        let resource = if named { resource } else { resource.with_service_name(service) };
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        processor.set_resource(&resource.with_attribute(version).with_attributes(who).build());
        Some(Self { processor, scope: InstrumentationScope::builder("netbuild").build() })
    }

    /// Tells of a decision of an agent and of the sources that it asked.
    pub(crate) fn handle_decision(&self, decision: &Decision) {
        let asked = decision.attempts.iter().filter(|attempt| attempt.began_ms > 0);
        let end = at(decision.at_ms);
        let start = asked.clone().map(|attempt| at(attempt.began_ms)).min().unwrap_or(end);
        let whole = self.end(
            Parent::none(),
            Told {
                name: decision.what.split(' ').next().unwrap_or_default().to_owned(),
                kind: SpanKind::Internal,
                start,
                end,
                attributes: vec![
                    KeyValue::new("netbuild.what", decision.what.clone()),
                    KeyValue::new("netbuild.bytes", decision.size as i64),
                    KeyValue::new("netbuild.outcome", decision.outcome.clone()),
                ],
                failed: None,
            },
        );
        for attempt in asked {
            self.end(whole, of_attempt(attempt));
        }
    }

    fn end(&self, parent: Parent, told: Told) -> Parent {
        let span = RandomIdGenerator::default().new_span_id();
        let flags = TraceFlags::SAMPLED;
        self.processor.on_end(SpanData {
            span_context: SpanContext::new(parent.trace, span, flags, false, TraceState::NONE),
            parent_span_id: parent.span,
            parent_span_is_remote: parent.is_remote,
            span_kind: told.kind,
            name: told.name.into(),
            start_time: told.start,
            end_time: told.end,
            attributes: told.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: told.failed.map_or(Status::Unset, Status::error),
            instrumentation_scope: self.scope.clone(),
        });
        Parent { trace: parent.trace, span, is_remote: false }
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        // That the collector did not answer was told.
        drop(self.processor.shutdown_with_timeout(FAREWELL));
    }
}

/// Tells of a run: of all of it, of each task, and of what came for it. `summary` is what the run came to.
pub(crate) fn tell_run(began: SystemTime, spans: &[Span], summary: &Value) {
    let parent = match std::env::var(PARENT).ok().as_deref().map(parent_of) {
        Some(Some((_, false))) => return,
        Some(Some((parent, true))) => parent,
        Some(None) | None => Parent::none(),
    };
    let Some(traces) = Traces::with_queue("netbuild", Vec::new(), spans.len() + 1) else { return };
    let end = began + spans.iter().map(|span| span.start + span.took).max().unwrap_or_default();
    let counts =
        ["tasks", "executed", "failed", "skipped", "sooner_built", "bytes_fetched", "result"];
    let counted: Value =
        counts.iter().map(|name| ((*name).to_owned(), summary[name].clone())).collect();
    let run = traces.end(
        parent,
        Told {
            name: "netbuild run".to_owned(),
            kind: SpanKind::Internal,
            start: began,
            end,
            attributes: attributes(&counted),
            failed: (summary["result"] != "success").then(|| "not all tasks did well".to_owned()),
        },
    );
    let told = |span: &Span| {
        let (name, kind) = match span.kind {
            Kind::Job(_) => (span.name.clone(), SpanKind::Internal),
            Kind::Transfer(_) => (format!("fetch {}", span.name), SpanKind::Client),
        };
        let (start, attributes) = (began + span.start, attributes(&span.fields));
        let failed = span.fields["reason"].as_str().map(str::to_owned);
        Told { name, kind, start, end: start + span.took, attributes, failed }
    };
    let (tasks, transfers): (Vec<_>, Vec<_>) =
        spans.iter().partition(|span| matches!(span.kind, Kind::Job(_)));
    let mut of = HashMap::new();
    for span in tasks {
        of.insert(span.name.as_str(), traces.end(run, told(span)));
    }
    for span in transfers {
        traces.end(of.get(span.name.as_str()).copied().unwrap_or(run), told(span));
    }
}

/// Says when the collector cannot be reached, and when it can again.
#[derive(Debug)]
struct Telling {
    exporter: Otlp,
    is_broken: AtomicBool,
}

impl SpanExporter for Telling {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.exporter.export(batch).await;
        match (&result, self.is_broken.swap(result.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => tracing::warn!("traces do not reach the collector: {error}"),
            (Ok(()), true) => tracing::info!("traces reach the collector again"),
            _ => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Whether a collector is named.
pub(crate) fn is_on() -> bool {
    is_wanted(&|name| std::env::var(name).ok())
}

fn is_wanted(variable: &dyn Fn(&str) -> Option<String>) -> bool {
    let says = |name: &str| variable(name).filter(|value| !value.is_empty());
    let is_off = |(name, value): &(&str, &str)| {
        says(name).is_some_and(|said| said.eq_ignore_ascii_case(value))
    };
    ENDPOINTS.iter().any(|name| says(name).is_some()) && !OFF.iter().any(is_off)
}

/// The parent, and whether it is recorded: `00-TRACE-SPAN-FLAGS` in hexadecimal digits.
fn parent_of(text: &str) -> Option<(Parent, bool)> {
    let parts: Vec<&str> = text.trim().split('-').collect();
    let [version, trace, span, flags, ..] = parts[..] else { return None };
    let is_hex = |part: &str, digits: usize| {
        part.len() == digits && part.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    if !is_hex(version, 2) || !is_hex(trace, 32) || !is_hex(span, 16) || !is_hex(flags, 2) {
        return None;
    }
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    if trace == TraceId::INVALID || span == SpanId::INVALID {
        return None;
    }
    let is_sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
    Some((Parent { trace, span, is_remote: true }, is_sampled))
}

fn of_attempt(attempt: &Attempt) -> Told {
    let start = at(attempt.began_ms);
    let mut attributes = vec![
        KeyValue::new("netbuild.source", attempt.source.clone()),
        KeyValue::new("netbuild.region", attempt.region.clone()),
        KeyValue::new("netbuild.reason", attempt.reason.clone()),
        KeyValue::new("netbuild.bytes", attempt.bytes as i64),
        KeyValue::new("netbuild.outcome", attempt.outcome.clone()),
    ];
    attributes.extend(attempt.predicted_s.map(|s| KeyValue::new("netbuild.predicted_seconds", s)));
    Told {
        name: format!("ask {}", attempt.source),
        kind: SpanKind::Client,
        start,
        end: start
            + Duration::try_from_secs_f64(attempt.actual_s.unwrap_or(0.0)).unwrap_or_default(),
        attributes,
        failed: attempt.outcome.strip_prefix("failed: ").map(str::to_owned),
    }
}

/// The fields of an object as attributes; those with fields of their own as several.
fn attributes(fields: &Value) -> Vec<KeyValue> {
    let mut attributes = Vec::new();
    add_attributes("netbuild", fields, &mut attributes);
    attributes
}

fn add_attributes(name: &str, value: &Value, attributes: &mut Vec<KeyValue>) {
    let value: Attribute = match value {
        Value::Object(fields) => {
            for (last, value) in fields {
                add_attributes(&format!("{name}.{last}"), value, attributes);
            }
            return;
        }
        Value::Bool(value) => (*value).into(),
        Value::Number(number) => match number.as_i64() {
            Some(number) => number.into(),
            None => number.as_f64().unwrap_or_default().into(),
        },
        Value::String(text) => text.clone().into(),
        Value::Null | Value::Array(_) => return,
    };
    attributes.push(KeyValue::new(name.to_owned(), value));
}

fn at(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_named_by_the_usual_variables() {
        let on = |set: &[(&str, &str)]| {
            let find = |name: &str| set.iter().find(|(known, _)| *known == name);
            is_wanted(&|name| find(name).map(|(_, value)| (*value).to_owned()))
        };
        assert!(!on(&[]));
        assert!(!on(&[(ENDPOINTS[1], "")]));
        assert!(on(&[(ENDPOINTS[1], "http://localhost:4318")]));
        assert!(on(&[(ENDPOINTS[0], "http://localhost:4318/v1/traces"), (OFF[0].0, "false")]));
        assert!(!on(&[(ENDPOINTS[1], "http://localhost:4318"), (OFF[0].0, "True")]));
        assert!(!on(&[(ENDPOINTS[1], "http://localhost:4318"), (OFF[1].0, "none")]));
    }

    #[test]
    fn the_span_of_the_caller_is_read_and_nothing_else() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let (parent, sampled) = parent_of(good).expect("a parent");
        assert_eq!(parent.trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!((parent.span.to_string().as_str(), sampled), ("00f067aa0ba902b7", true));
        assert!(!parent_of(&good.replace("-01", "-00")).expect("one").1);
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473\u{e4}-00f067aa0ba902b7-01",
        ] {
            assert!(parent_of(bad).is_none(), "{bad}");
        }
    }
}
