//! `netbuild`: runs graphs, and asks the agent of this machine.

fn main() -> std::process::ExitCode {
    netbuild_cli::netbuild_main()
}
