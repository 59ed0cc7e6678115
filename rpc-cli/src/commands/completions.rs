//! `rpc completions`.

use clap::{Args, Command};
use clap_complete::Shell;

use crate::failure::{Failure, Outcome};
use crate::output::Output;

/// Prints a completion script for a shell.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rpc completions bash > ~/.local/share/bash-completion/completions/rpc
  rpc completions zsh > ~/.zfunc/_rpc        # with ~/.zfunc in $fpath
  rpc completions fish > ~/.config/fish/completions/rpc.fish")]
pub(crate) struct Completions {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    /// Prints the script for the program's `command`.
    pub(crate) fn run(&self, command: &mut Command, output: &Output) -> Result<Outcome, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, command, "rpc", &mut script);
        output.raw(&String::from_utf8_lossy(&script))?;
        Ok(Outcome::Done)
    }
}
