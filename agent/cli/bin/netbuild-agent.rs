//! `netbuild-agent`: one member of the mesh.

fn main() -> std::process::ExitCode {
    netbuild_cli::agent_main()
}
