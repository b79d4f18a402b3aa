//! Takes the shortest inputs of `FOLDER/TARGET` of every target into the repository.

use std::path::PathBuf;

use zmqgame_fuzz_bodies::{TARGETS, keep};

fn main() -> std::io::Result<()> {
    let folder: PathBuf = std::env::args_os().nth(1).expect("a folder").into();
    for target in &TARGETS {
        let count = keep(target.name, &folder.join(target.name))?;
        println!("{} {count}", target.name);
    }
    Ok(())
}
