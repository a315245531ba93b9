//! Copies a file with several reads and writes in flight at once. Each of `--blocks` blocks is an owner of
//! its own: it reads a part of the file, writes it, and goes on with the next part that no block has taken,
//! so that a slow part holds up no other block.
//!
//! It shows how owners share what they have in common (`Rc`: both files, and the place where the next part
//! begins), how short reads and the end of the file are told apart, and how the first error stops all the
//! others.
//!
//! ```text
//! cargo run --release --example file_copy -- SOURCE DESTINATION --blocks 16 --block-size 131072 --sync
//! ```

use std::cell::{Cell, RefCell};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use oxev::{Completion, File, Loop, RunMode};

/// Copies a file.
#[derive(Parser)]
struct Args {
    /// The file to read.
    source: PathBuf,
    /// The file to write; what was in it is lost.
    destination: PathBuf,
    /// How many blocks are read or written at once.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    blocks: u32,
    /// The size of a block.
    #[arg(long, value_name = "BYTES", default_value_t = 128 << 10, value_parser = clap::value_parser!(u32).range(1..=64 << 20))]
    block_size: u32,
    /// Waits until the copy would survive a loss of power.
    #[arg(long)]
    sync: bool,
}

fn main() -> ExitCode {
    match copy(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("file_copy: {error}");
            ExitCode::FAILURE
        }
    }
}

fn copy(args: &Args) -> io::Result<()> {
    let (source, destination, bytes) = open(args)?;
    let bar = ProgressBar::new(bytes);
    let style = "{wide_bar} {binary_bytes:>11}/{binary_total_bytes}  {binary_bytes_per_sec}";
    bar.set_style(ProgressStyle::with_template(style).expect("the template is valid"));

    let mut lp = Loop::builder().capacity(args.blocks as usize).build()?;
    let (next_offset, failure) = (Cell::new(0), RefCell::new(None));
    let transfer = Rc::new(Transfer { source, destination, next_offset, failure, bar });
    for _ in 0..args.blocks {
        let buffer = vec![0; args.block_size as usize].into_boxed_slice();
        let block = Block { transfer: Rc::clone(&transfer), buffer, offset: 0, left: 0 };
        take_part(&mut lp, Box::new(Completion::new(block)));
    }
    lp.run(RunMode::UntilDone)?;

    let transfer = Rc::into_inner(transfer).expect("every block has been dropped");
    transfer.bar.finish();
    match transfer.failure.into_inner() {
        Some(Failure { reading: true, error }) => Err(context("cannot read", &args.source, &error)),
        Some(Failure { reading: false, error }) => Err(context("cannot write", &args.destination, &error)),
        None => finish(&mut lp, transfer.destination, args),
    }
}

fn context(what: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

/// Opens both files, and says how many bytes there are to copy. At the start there is nothing else to do, so
/// this may block.
fn open(args: &Args) -> io::Result<(File, File, u64)> {
    let (from, to) = (&args.source, &args.destination);
    let (source, metadata) = open_source(from).map_err(|error| context("cannot read", from, &error))?;
    let destination = open_destination(to, &metadata).map_err(|error| context("cannot write", to, &error))?;
    Ok((File::from_std(source), File::from_std(destination), metadata.len()))
}

fn open_source(path: &Path) -> io::Result<(std::fs::File, std::fs::Metadata)> {
    let source = std::fs::File::open(path)?;
    let metadata = source.metadata()?;
    if metadata.is_file() { Ok((source, metadata)) } else { Err(invalid(NOT_REGULAR)) }
}

/// Empties the file only when it is known not to be the source.
fn open_destination(path: &Path, source: &std::fs::Metadata) -> io::Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    let options = options.write(true).create(true).truncate(false).mode(source.mode() & 0o777);
    let destination = options.open(path)?;
    let metadata = destination.metadata()?;
    if !metadata.is_file() {
        return Err(invalid(NOT_REGULAR));
    }
    if (metadata.dev(), metadata.ino()) == (source.dev(), source.ino()) {
        return Err(invalid("it is the file that is to be copied"));
    }
    destination.set_len(0)?;
    Ok(destination)
}

/// Pipes and terminals have no offsets, so the parts would come in any order.
const NOT_REGULAR: &str = "not a regular file";

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

// ---- the blocks

/// What the blocks share.
struct Transfer {
    source: File,
    destination: File,
    /// Where the next part begins that no block has taken.
    next_offset: Cell<u64>,
    /// The first error. No part is begun after it.
    failure: RefCell<Option<Failure>>,
    bar: ProgressBar,
}

struct Failure {
    reading: bool,
    error: io::Error,
}

impl Transfer {
    fn fail(&self, reading: bool, error: io::Error) {
        self.failure.borrow_mut().get_or_insert(Failure { reading, error });
    }
}

/// A part of the file on its way: what is left of it begins at `offset`.
struct Block {
    transfer: Rc<Transfer>,
    buffer: Box<[u8]>,
    offset: u64,
    left: usize,
}

impl Block {
    fn take_next_part(&mut self) {
        self.offset = self.transfer.next_offset.get();
        self.left = self.buffer.len();
        self.transfer.next_offset.set(self.offset + self.left as u64);
    }

    fn advance(&mut self, bytes: usize) {
        self.offset += bytes as u64;
        self.left -= bytes;
        self.transfer.bar.inc(bytes as u64);
    }
}

/// Goes on with the next part; if another block has failed, drops this one.
fn take_part(lp: &mut Loop, mut block: Box<Completion<Block>>) {
    if block.transfer.failure.borrow().is_none() {
        block.take_next_part();
        read(lp, block);
    }
}

fn read(lp: &mut Loop, block: Box<Completion<Block>>) {
    lp.submit(block, |b| b.transfer.source.read_at(&mut b.buffer[..b.left], b.offset), on_read);
}

/// A read may bring less than was asked for; only one that brings nothing is the end of the file, and of the
/// block.
fn on_read(lp: &mut Loop, block: Box<Completion<Block>>, read: io::Result<usize>) {
    match read {
        Ok(0) => drop(block),
        Ok(bytes) => {
            lp.submit(
                block,
                |b| b.transfer.destination.write_all_at(&b.buffer[..bytes], b.offset),
                on_written,
            );
        }
        Err(error) => block.transfer.fail(true, error),
    }
}

fn on_written(lp: &mut Loop, mut block: Box<Completion<Block>>, written: io::Result<usize>) {
    match written {
        Ok(bytes) => {
            block.advance(bytes);
            if block.left > 0 { read(lp, block) } else { take_part(lp, block) }
        }
        Err(error) => block.transfer.fail(false, error),
    }
}

// ---- the end

/// The destination, and how making it durable or closing it went.
struct Ending {
    destination: File,
    outcome: Rc<RefCell<io::Result<()>>>,
}

/// Makes the copy durable if that is asked for, and closes it: either may bring the error of a write that
/// seemed to have succeeded.
fn finish(lp: &mut Loop, destination: File, args: &Args) -> io::Result<()> {
    let outcome = Rc::new(RefCell::new(Ok(())));
    let ending = Box::new(Completion::new(Ending { destination, outcome: Rc::clone(&outcome) }));
    if args.sync {
        lp.submit(ending, |e| e.destination.sync_all(), on_synced);
    } else {
        close(lp, ending);
    }
    lp.run(RunMode::UntilDone)?;
    outcome.replace(Ok(())).map_err(|error| context("cannot finish", &args.destination, &error))
}

fn on_synced(lp: &mut Loop, ending: Box<Completion<Ending>>, synced: io::Result<()>) {
    match synced {
        Ok(()) => close(lp, ending),
        Err(error) => *ending.outcome.borrow_mut() = Err(error),
    }
}

fn close(lp: &mut Loop, ending: Box<Completion<Ending>>) {
    lp.submit(ending, |e| e.destination.close(), |_, ending, closed| *ending.outcome.borrow_mut() = closed);
}
