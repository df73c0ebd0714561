//! `asof`: arguments, the engine, and its answers as text or JSON.

mod args;
mod checks;
mod commands;
mod config;
mod context;
mod failure;
mod passphrase;
mod show;

use std::process::ExitCode;

use asof_world::World;
use clap::{CommandFactory, Parser};

use args::{Cli, Command};
use context::Context;
use failure::Result;

fn main() -> ExitCode {
    let cli = Cli::parse();
    end_quietly_when_nobody_reads();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads can be started");
    match runtime.block_on(run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.code())
        }
    }
}

/// `asof … | head` closes our output: that is no failure of ours, and nothing to write a report about.
fn end_quietly_when_nobody_reads() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload().downcast_ref::<String>().map_or("", String::as_str);
        if text.contains("Broken pipe") {
            // What a shell says of a program that SIGPIPE ended.
            std::process::exit(141);
        }
        usual(panic);
    }));
}

async fn run(cli: Cli) -> Result<()> {
    let context = Context { world: World::real(), config: cli.config, quiet: cli.quiet };
    match cli.command {
        Command::Init(args) => commands::init::run(&context, args).await,
        Command::Instance(command) => commands::instance::run(&context, command).await,
        Command::Check(args) => commands::check::run(&context, args).await,
        Command::Backup(command) => commands::backup::run(&context, command).await,
        Command::Wal(command) => commands::wal::run(&context, command).await,
        Command::Restore(args) => commands::restore::run(&context, args).await,
        Command::Dump(args) => commands::dump::run(&context, args).await,
        Command::Load(args) => commands::load::run(&context, args).await,
        Command::Export(args) => commands::export::run(&context, args).await,
        Command::Verify(args) => commands::verify::run(&context, args).await,
        Command::Drill(args) => commands::drill::run(&context, args).await,
        Command::Status(args) => commands::status::run(&context, args).await,
        Command::Compare(args) => commands::compare::run(&context, args).await,
        Command::Key(command) => commands::key::run(&context, command).await,
        Command::Demo(args) => commands::demo::run(&context, args).await,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "asof", &mut std::io::stdout());
            Ok(())
        }
    }
}
