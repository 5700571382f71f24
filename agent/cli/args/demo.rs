//! The command line of `netbuild demo`.

use clap::ValueHint;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 all was measured, 1 a chapter failed or a region served nothing, 2 wrong \
                        usage, 130 interrupted, 143 terminated. Targets that are missed are printed as \
                        missed, and are no failure.\n\
                        Needs rustc and a C compiler, as the example does. As root, with /dev/net/tun and the \
                        command `ip`, the links are between network namespaces; else datagrams pass through \
                        this process, between addresses of the loopback interface."
)]
pub(crate) struct DemoArgs {
    /// Tell the same with little: some tasks of the example, and small files
    #[arg(long)]
    pub(crate) fast: bool,
    /// Leave the agents up until Ctrl-C, and say how to talk to them
    #[arg(long)]
    pub(crate) keep: bool,
    /// Emulate the links on loopback, also where network namespaces can be had
    #[arg(long)]
    pub(crate) loopback: bool,
    /// Take the example from this checkout of netbuild [default: the one built in]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) workspace: Option<PathBuf>,
    /// Write what was measured as JSON to a file; `-` is standard output
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) json: Option<PathBuf>,
    /// Write when each task and transfer ran to a file, for Perfetto or Chrome's tracing
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) trace: Option<PathBuf>,
}
