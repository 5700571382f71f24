//! The worker: turns orders into quotes, and remembers them.

use cache::QuoteCache;
use models::{Model, Request, Response, Samples, Stats, fingerprint};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const USAGE: &str = "usage: worker [--listen HOST:PORT | --self-test | --version]
Without an argument, it serves standard input and output.";

/// Distinct orders to remember, and for how long a price is binding.
const CACHED_QUOTES: usize = 1024;
const QUOTE_LIFE: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let started = Instant::now();
    let mut worker = Worker::new();
    let answer = |request: &[u8]| worker.answer(request, started.elapsed());
    let served = match arguments[..] {
        ["--version"] => {
            println!("{}", settings::version_line("worker"));
            Ok(())
        }
        ["--self-test"] => {
            println!("{}", self_test());
            Ok(())
        }
        ["--listen", address] => network::serve_tcp(address, answer),
        [] => network::serve_stdio(answer),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("worker: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The state behind the answers.
struct Worker {
    quotes: QuoteCache,
    stats: Stats,
}

impl Worker {
    fn new() -> Worker {
        Worker { quotes: QuoteCache::new(CACHED_QUOTES, QUOTE_LIFE), stats: Stats::default() }
    }

    /// The response to one message; bytes that are no request get an answer too.
    fn answer(&mut self, message: &[u8], now: Duration) -> Vec<u8> {
        let response = match Request::decode(message) {
            Ok(request) => self.respond(&request, now),
            Err(error) => Response::Failed { reason: error.to_string() },
        };
        response.encode()
    }

    fn respond(&mut self, request: &Request, now: Duration) -> Response {
        match request {
            Request::Stats => Response::Stats(Stats { cached: self.quotes.hits(), ..self.stats }),
            Request::Quote(order) => match self.quotes.quote(order, now) {
                Ok(quote) => {
                    self.stats.quoted += 1;
                    Response::Quote { order: order.id, quote }
                }
                Err(refusal) => {
                    self.stats.refused += 1;
                    Response::Refused { order: order.id, reason: refusal.to_string() }
                }
            },
        }
    }
}

/// Quotes many sample orders through the wire form and names the result by one fingerprint.
fn self_test() -> String {
    let mut worker = Worker::new();
    let orders = Samples::new(2026).take(20_000);
    let hash = orders.fold(0, |hash, order| {
        fingerprint(hash, &worker.answer(&Request::Quote(order).encode(), Duration::ZERO))
    });
    let Stats { quoted, refused, .. } = worker.stats;
    let cached = worker.quotes.hits();
    format!("worker: {quoted} quoted, {refused} refused, {cached} cached, {hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use models::Order;

    #[test]
    fn quotes_and_refusals_are_counted() {
        let mut worker = Worker::new();
        let good = Samples::new(1).next().unwrap();
        let empty = Order { lines: Vec::new(), ..good.clone() };
        for order in [good.clone(), good, empty] {
            worker.respond(&Request::Quote(order), Duration::ZERO);
        }
        let stats = Stats { quoted: 2, refused: 1, cached: 1 };
        assert_eq!(worker.respond(&Request::Stats, Duration::ZERO), Response::Stats(stats));
    }

    #[test]
    fn a_quote_is_worked_out_again_when_it_is_old() {
        let mut worker = Worker::new();
        let request = Request::Quote(Samples::new(1).next().unwrap());
        worker.respond(&request, Duration::ZERO);
        worker.respond(&request, QUOTE_LIFE);
        assert_eq!(worker.quotes.hits(), 0);
    }

    #[test]
    fn garbage_gets_an_answer() {
        let answer = Worker::new().answer(b"\xff\x00", Duration::ZERO);
        assert!(matches!(Response::decode(&answer), Ok(Response::Failed { .. })));
    }
}
