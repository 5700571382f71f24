//! `netbuild`: runs graphs, and asks the agent of this machine.

/// A run makes and leaves many small things.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    netbuild_cli::netbuild_main()
}
