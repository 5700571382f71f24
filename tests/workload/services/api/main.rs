//! The api: checks orders at the door and passes the good ones on to a worker.

use models::{Model, Order, Quote, Request, Response, Samples, Stats, fingerprint};
use network::Endpoint;
use std::error::Error;
use std::io;
use std::process::ExitCode;

const USAGE: &str = "usage: api --worker ENDPOINT [--listen HOST:PORT]
       api --self-test | --version
Without --listen, it serves standard input and output. ENDPOINT is tcp:HOST:PORT or exec:PROGRAM.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["--version"] => {
            println!("{}", settings::version_line("api"));
            Ok(())
        }
        ["--self-test"] => {
            println!("{}", self_test());
            Ok(())
        }
        ["--worker", worker] => serve(worker, None),
        ["--worker", worker, "--listen", address] => serve(worker, Some(address)),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("api: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(worker: &str, listen: Option<&str>) -> Result<(), Box<dyn Error>> {
    let mut worker = worker.parse::<Endpoint>()?.connect()?;
    let mut api = Api::new(|request| network::call(&mut worker, request));
    let answer = |message: &[u8]| api.answer(message);
    match listen {
        Some(address) => network::serve_tcp(address, answer)?,
        None => network::serve_stdio(answer)?,
    }
    Ok(())
}

/// The state behind the answers; `ask_worker` sends an encoded request and returns the response.
struct Api<F> {
    ask_worker: F,
    refused: u64,
}

impl<F: FnMut(&[u8]) -> io::Result<Vec<u8>>> Api<F> {
    fn new(ask_worker: F) -> Api<F> {
        Api { ask_worker, refused: 0 }
    }

    fn answer(&mut self, message: &[u8]) -> Vec<u8> {
        let response = match Request::decode(message) {
            Ok(request) => self.respond(&request),
            Err(error) => Response::Failed { reason: error.to_string() },
        };
        response.encode()
    }

    fn respond(&mut self, request: &Request) -> Response {
        match request {
            Request::Quote(order) => self.quote(order, request),
            Request::Stats => match self.forward(request) {
                Response::Stats(worker) => {
                    Response::Stats(Stats { refused: worker.refused + self.refused, ..worker })
                }
                other => other,
            },
        }
    }

    /// Refuses here what the worker would refuse, and spares it the work.
    fn quote(&mut self, order: &Order, request: &Request) -> Response {
        if let Err(refusal) = order.check() {
            self.refused += 1;
            return Response::Refused { order: order.id, reason: refusal.to_string() };
        }
        match self.forward(request) {
            Response::Quote { order: id, .. } if id != order.id => {
                Response::Failed { reason: format!("worker answered for order {id}") }
            }
            response => response,
        }
    }

    fn forward(&mut self, request: &Request) -> Response {
        let answer = match (self.ask_worker)(&request.encode()) {
            Ok(answer) => answer,
            Err(error) => {
                return Response::Failed { reason: format!("worker is gone: {error}") };
            }
        };
        Response::decode(&answer)
            .unwrap_or_else(|error| Response::Failed { reason: format!("worker: {error}") })
    }
}

/// A worker inside this process, for the tests: quotes without a cache.
fn plain_worker(message: &[u8]) -> io::Result<Vec<u8>> {
    let response = match Request::decode(message) {
        Ok(Request::Quote(order)) => match Quote::for_order(&order) {
            Ok(quote) => Response::Quote { order: order.id, quote },
            Err(refusal) => Response::Refused { order: order.id, reason: refusal.to_string() },
        },
        Ok(Request::Stats) => Response::Stats(Stats::default()),
        Err(error) => Response::Failed { reason: error.to_string() },
    };
    Ok(response.encode())
}

/// Passes sample orders through, every third of them spoilt, and names the result by a fingerprint.
fn self_test() -> String {
    let mut api = Api::new(plain_worker);
    let mut hash = 0;
    for mut order in Samples::new(1815).take(20_000) {
        if order.id % 3 == 0 {
            order.lines[0].quantity = 0;
        }
        hash = fingerprint(hash, &api.answer(&Request::Quote(order).encode()));
    }
    format!("api: 20000 orders, {} refused, {hash:016x}", api.refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Order {
        Samples::new(1).next().unwrap()
    }

    #[test]
    fn a_good_order_reaches_the_worker() {
        let quote = Quote::for_order(&sample()).unwrap();
        let response = Api::new(plain_worker).respond(&Request::Quote(sample()));
        assert_eq!(response, Response::Quote { order: sample().id, quote });
    }

    #[test]
    fn a_bad_order_does_not() {
        let mut calls = 0;
        let mut api = Api::new(|request| {
            calls += 1;
            plain_worker(request)
        });
        let order = Order { lines: Vec::new(), ..sample() };
        assert!(matches!(api.respond(&Request::Quote(order)), Response::Refused { .. }));
        assert_eq!((api.refused, calls), (1, 0));
    }

    #[test]
    fn refusals_of_both_services_are_summed() {
        let worker = Stats { quoted: 5, refused: 2, cached: 1 };
        let mut api = Api::new(|_| Ok(Response::Stats(worker).encode()));
        api.refused = 3;
        let sum = Stats { refused: 5, ..worker };
        assert_eq!(api.respond(&Request::Stats), Response::Stats(sum));
    }

    #[test]
    fn a_worker_that_is_gone_mad_or_mistaken_is_reported() {
        let failed = |worker: fn(&[u8]) -> io::Result<Vec<u8>>| match Api::new(worker)
            .respond(&Request::Quote(sample()))
        {
            Response::Failed { reason } => reason,
            other => panic!("{other:?}"),
        };
        assert!(failed(|_| Err(io::ErrorKind::BrokenPipe.into())).starts_with("worker is gone"));
        assert_eq!(failed(|_| Ok(b"?".to_vec())), "worker: expected a value at byte 0");
        let mistaken = failed(|_| {
            let quote = Quote::for_order(&sample()).unwrap();
            Ok(Response::Quote { order: 77, quote }.encode())
        });
        assert_eq!(mistaken, "worker answered for order 77");
    }
}
