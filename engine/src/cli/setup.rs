//! `terrarium setup`.

use super::args::Setup;
use super::{Ended, exit, say, workshop};
use crate::corpus;
use std::path::Path;
use terrarium_sandbox::toolchain::{self, Dirs};

/// Finds or makes all that the first run needs.
pub fn setup(args: &Setup) -> Ended {
    let dirs = Dirs::from_env()?;
    let toolchain = toolchain::install(&dirs, &mut workshop::progress)?;
    say(format_args!("compiler  {}", toolchain.compiler.version));
    say(format_args!("sdk       {}", &toolchain.sdk_key[..16.min(toolchain.sdk_key.len())]));
    if args.c {
        let clang = toolchain::install_c(&dirs, &mut workshop::progress)?;
        let libc = if clang.sysroot.is_some() { "with wasi-libc" } else { "no libc found beside it" };
        say(format_args!("c         {} ({libc})", clang.version));
    }
    if !args.no_corpus {
        let corpus = corpus::default_corpus(&dirs, &mut workshop::progress)?;
        say(format_args!("corpus    {}", corpus.train.parent().unwrap_or(Path::new("")).display()));
    }
    Ok(exit::OK)
}
