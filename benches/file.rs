//! Random 4 KiB reads from a file through [`File::read_at`], against the same reads on a bare ring
//! (`SINGLE_ISSUER | DEFER_TASKRUN`).
//!
//! `QD` is the queue depth: how many reads are in flight at once, each with its own aligned buffer. `cached`
//! reads come out of the page cache and show what the loop costs; `O_DIRECT` reads come from the device and
//! show that it is kept busy. Reads per second, and the CPU time of each, medians of rounds in turns. The
//! ratio is oxev's speed to the ring's in the same round: by CPU time for cached reads, which never wait, by
//! rate for `O_DIRECT`. Goal: 0.95.
//!
//! The file is made in the target directory: 256 MiB, or `OXEV_BENCH_FILE_MIB`. Where `O_DIRECT` does not
//! work it is left out.

mod peers;
mod support;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use io_uring::{opcode, types};
use oxev::{Completion, File, Loop, RunMode};
use peers::uring::RawRing;
use support::{Random, Samples, alternate, pin_to, scaled, thread_time, verdict};

const BLOCK: usize = 4096;
const ENTRIES: u32 = 256;
const GOAL: f64 = 0.95;

#[repr(align(4096))]
struct Block([u8; BLOCK]);

/// What a number of reads took.
struct Run {
    per_second: f64,
    cpu_us: f64,
}

impl Run {
    fn measure(reads: usize, work: impl FnOnce()) -> Run {
        let (start, cpu_start) = (Instant::now(), thread_time());
        work();
        let (elapsed, cpu) = (start.elapsed(), thread_time() - cpu_start);
        Run {
            per_second: reads as f64 / elapsed.as_secs_f64(),
            cpu_us: cpu.as_secs_f64() * 1e6 / reads as f64,
        }
    }
}

/// What is read, and how.
#[derive(Clone, Copy)]
struct Load<'a> {
    path: &'a Path,
    direct: bool,
    queue_depth: usize,
    reads: usize,
}

impl Load<'_> {
    fn open(&self) -> io::Result<std::fs::File> {
        let flags = if self.direct { libc::O_DIRECT } else { 0 };
        OpenOptions::new().read(true).custom_flags(flags).open(self.path)
    }

    fn blocks(&self) -> u64 {
        self.path.metadata().expect("the file is there").len() / BLOCK as u64
    }
}

// ---- oxev

struct Reader {
    file: Rc<File>,
    blocks: u64,
    random: Random,
    left: usize,
    buffer: Box<Block>,
}

fn submit_read(lp: &mut Loop, reader: Box<Completion<Reader>>) {
    lp.submit(reader, |r| r.file.read_at(&mut r.buffer.0, r.random.below(r.blocks) * BLOCK as u64), on_read);
}

fn on_read(lp: &mut Loop, mut reader: Box<Completion<Reader>>, read: io::Result<usize>) {
    assert_eq!(read.expect("a block is read"), BLOCK);
    reader.left -= 1;
    if reader.left > 0 {
        submit_read(lp, reader);
    }
}

fn run_oxev(load: Load<'_>) -> Run {
    let mut lp = Loop::builder().entries(ENTRIES).build().expect("a loop");
    let file = Rc::new(File::from_std(load.open().expect("the file opens")));
    for index in 0..load.queue_depth {
        let reader = Reader {
            file: Rc::clone(&file),
            blocks: load.blocks(),
            random: Random(index as u64 + 1),
            left: load.reads / load.queue_depth,
            buffer: Box::new(Block([0; BLOCK])),
        };
        submit_read(&mut lp, Box::new(Completion::new(reader)));
    }
    Run::measure(load.reads, || lp.run(RunMode::UntilDone).expect("the loop runs"))
}

// ---- the bare ring

struct Slot {
    random: Random,
    left: usize,
    buffer: Box<Block>,
}

#[allow(unsafe_code)]
fn run_raw(load: Load<'_>) -> Run {
    let mut ring = RawRing::new(ENTRIES);
    let (file, blocks) = (load.open().expect("the file opens"), load.blocks());
    let slot = |index: usize| Slot {
        random: Random(index as u64 + 1),
        left: load.reads / load.queue_depth,
        buffer: Box::new(Block([0; BLOCK])),
    };
    let mut slots: Vec<Slot> = (0..load.queue_depth).map(slot).collect();
    let submit = |ring: &mut RawRing, index: usize, slot: &mut Slot| {
        let offset = slot.random.below(blocks) * BLOCK as u64;
        let read = opcode::Read::new(types::Fd(file.as_raw_fd()), slot.buffer.0.as_mut_ptr(), BLOCK as u32);
        // SAFETY: the buffers outlive the ring's last completion, which is waited for.
        unsafe { ring.push(&read.offset(offset).build().user_data(index as u64)) };
    };
    slots.iter_mut().enumerate().for_each(|(index, slot)| submit(&mut ring, index, slot));
    let mut running = load.queue_depth;
    Run::measure(load.reads, || {
        while running > 0 {
            ring.wait(|ring, completion| {
                assert_eq!(completion.result(), BLOCK as i32);
                let index = completion.user_data() as usize;
                let slot = &mut slots[index];
                slot.left -= 1;
                if slot.left > 0 {
                    submit(ring, index, slot);
                } else {
                    running -= 1;
                }
            });
        }
    })
}

// ---- the table

fn bench(load: Load<'_>, rounds: usize) {
    let (mut cpu_raw, mut cpu_oxev) = (Samples::default(), Samples::default());
    let [raw, oxev] = alternate(
        rounds,
        [
            &mut || {
                let run = run_raw(load);
                cpu_raw.0.push(run.cpu_us);
                run.per_second
            },
            &mut || {
                let run = run_oxev(load);
                cpu_oxev.0.push(run.cpu_us);
                run.per_second
            },
        ],
    );
    let ratio = if load.direct {
        oxev.paired(&raw, |oxev, raw| oxev / raw)
    } else {
        cpu_oxev.paired(&cpu_raw, |oxev, raw| raw / oxev)
    };
    println!(
        "{:<9} {:>4} {:>11.0} {:>11.0} {ratio:>7.3} {:>9.2} {:>9.2}   >= {GOAL} {}",
        if load.direct { "O_DIRECT" } else { "cached" },
        load.queue_depth,
        raw.median(),
        oxev.median(),
        cpu_raw.median(),
        cpu_oxev.median(),
        verdict(-ratio, -GOAL),
    );
}

fn make_file(path: &Path) -> io::Result<()> {
    let mebibytes = match std::env::var("OXEV_BENCH_FILE_MIB") {
        Ok(number) => number.parse().expect("OXEV_BENCH_FILE_MIB is a number"),
        Err(_) => scaled(256, 1),
    };
    let mut file = std::fs::File::create(path)?;
    for _ in 0..mebibytes {
        file.write_all(&[0x55; 1 << 20])?;
    }
    file.sync_all()
}

fn main() -> io::Result<()> {
    pin_to(0);
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("read-{}", std::process::id()));
    make_file(&path)?;
    let rounds = scaled(9, 1);
    println!("Random reads of {BLOCK} bytes, {rounds} rounds: reads a second, CPU time of each in µs");
    println!(
        "{:<9} {:>4} {:>11} {:>11} {:>7} {:>9} {:>9}   goal",
        "", "QD", "raw", "oxev", "ratio", "raw", "oxev"
    );
    for (direct, counts) in [(false, [100_000, 200_000, 200_000]), (true, [4_000, 30_000, 40_000])] {
        for (queue_depth, reads) in [1, 32, 128].into_iter().zip(counts) {
            let load = Load { path: &path, direct, queue_depth, reads: scaled(reads, 256) };
            if load.open().is_ok() {
                bench(load, rounds);
            } else {
                println!("O_DIRECT does not work on this file system");
            }
        }
    }
    std::fs::remove_file(path)
}
