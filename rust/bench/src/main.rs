//! A load of native nodes for the benchmarks of the bus: the core's `Node` on the reactor's epoll.
//!
//! `zmqgame-load WHAT HOST:PORT [key=value ...]` says `ready`, then runs a round for each line on stdin and answers it
//! with a line of figures; it ends with stdin.
//!
//! | what | does |
//! |---|---|
//! | `host` | `nodes` nodes host `players`, in `group`, answer requests for `service`; a line logs more players in |
//! | `slow` | a node hosts `players` and reads 1,000 bytes a second |
//! | `rtt` | `count` requests to `service`, one after the other |
//! | `hub` | a hub with its mailbox in memory, on that address: for profiles of the hub alone |
//! | `send` | `count` messages of `bytes` from `nodes` nodes to `players` or `group`, until each has its receipt |

/// That of the native module.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod client;
mod driver;
mod host;
mod hub;
mod options;
mod rounds;

use std::io::{self, Write};
use std::process::ExitCode;

use driver::Driver;
use options::Options;

/// One line on stdout, at once.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    // The reader may be gone: the end of stdin says it too.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn run() -> io::Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    if options.what == "hub" {
        return hub::hub(&options);
    }
    let mut driver = Driver::new(options.zmtp()?)?;
    match options.what.as_str() {
        "host" => host::host(&mut driver, &options),
        "slow" => host::slow(&mut driver, &options),
        "rtt" => rounds::rtt(&mut driver, &options),
        "send" => rounds::send(&mut driver, &options),
        what => Err(io::Error::other(format!("no load {what}"))),
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("zmqgame-load: {error}");
            ExitCode::FAILURE
        }
    }
}
