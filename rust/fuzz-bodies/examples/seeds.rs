//! Writes the seeds and kept inputs of every target to `FOLDER/TARGET/seed-N`, for libFuzzer to start from.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let folder: PathBuf = std::env::args_os().nth(1).expect("a folder").into();
    for target in &zmqgame_fuzz_bodies::TARGETS {
        let folder = folder.join(target.name);
        std::fs::create_dir_all(&folder)?;
        let kept = zmqgame_fuzz_bodies::kept(target.name);
        for (number, seed) in (target.seeds)().into_iter().chain(kept).enumerate() {
            std::fs::write(folder.join(format!("seed-{number}")), seed)?;
        }
        println!("{}", target.name);
    }
    Ok(())
}
