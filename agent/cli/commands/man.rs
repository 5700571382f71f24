//! `netbuild man`.

use super::print;
use crate::{
    args::{AgentArgs, Args, ManArgs},
    errors::CliError,
};
use clap::CommandFactory as _;
use clap_mangen::Man;
use std::{fs, process::ExitCode};

pub(crate) fn man(args: &ManArgs) -> Result<ExitCode, CliError> {
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        Man::new(built(Args::command())).render(&mut page).map_err(CliError::usage)?;
        print(&String::from_utf8_lossy(&page));
        return Ok(ExitCode::SUCCESS);
    };
    fs::create_dir_all(dir).map_err(|error| CliError::io("create", dir, &error))?;
    for program in [Args::command(), AgentArgs::command()] {
        clap_mangen::generate_to(program, dir)
            .map_err(|error| CliError::io("write the manual pages to", dir, &error))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// With what clap adds by itself.
fn built(mut program: clap::Command) -> clap::Command {
    program.build();
    program
}
