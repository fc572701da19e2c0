//! Damage in a store folder: one byte flipped, one object removed, one swapped for another's.
//!
//! The local store keeps one file per object below its root; names that begin with a dot are its own.

use std::path::{Path, PathBuf};

/// Every object below `store` whose name satisfies `wanted`, in name order, as (name, path).
pub fn objects(store: &Path, wanted: impl Fn(&str) -> bool) -> Vec<(String, PathBuf)> {
    let mut waiting = vec![store.to_path_buf()];
    let mut found = Vec::new();
    while let Some(folder) = waiting.pop() {
        for entry in
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())).flatten()
        {
            let path = entry.path();
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            if path.is_dir() {
                waiting.push(path);
                continue;
            }
            let name = path.strip_prefix(store).expect("below the store").to_string_lossy().into_owned();
            if wanted(&name) {
                found.push((name, path));
            }
        }
    }
    found.sort();
    found
}

/// What kind of object a name is of: its ending after the first dot of its last part.
pub fn kind(name: &str) -> &str {
    let last = name.rsplit('/').next().unwrap_or(name);
    last.split_once('.').map_or(last, |(_, ending)| ending)
}

/// Puts the damage right again when dropped, so that one store serves many cases.
pub struct Damage {
    path: PathBuf,
    original: Vec<u8>,
}

impl Damage {
    /// Flips one bit of the byte in the middle of the file.
    pub fn flip(path: &Path) -> Self {
        let damage = Self::of(path);
        let mut bytes = damage.original.clone();
        let middle = bytes.len() / 2;
        *bytes.get_mut(middle).expect("an object with content") ^= 0x10;
        damage.put(&bytes);
        damage
    }

    /// Cuts the last byte off.
    pub fn shorten(path: &Path) -> Self {
        let damage = Self::of(path);
        damage.put(&damage.original[..damage.original.len() - 1]);
        damage
    }

    pub fn remove(path: &Path) -> Self {
        let damage = Self::of(path);
        std::fs::remove_file(path).expect("the object goes");
        damage
    }

    /// Another object's content under this name.
    pub fn swap(path: &Path, others: &Path) -> Self {
        let damage = Self::of(path);
        let foreign = std::fs::read(others).expect("the other object");
        assert_ne!(foreign, damage.original, "swapping equal objects damages nothing");
        damage.put(&foreign);
        damage
    }

    /// Any content in the file's place.
    pub fn replace(path: &Path, content: &[u8]) -> Self {
        let damage = Self::of(path);
        damage.put(content);
        damage
    }

    fn of(path: &Path) -> Self {
        Self { path: path.to_owned(), original: std::fs::read(path).expect("the object") }
    }

    /// Replaces the file: objects are written read-only.
    fn put(&self, bytes: &[u8]) {
        let mode = std::fs::metadata(&self.path).map(|found| found.permissions()).ok();
        std::fs::remove_file(&self.path).ok();
        std::fs::write(&self.path, bytes).expect("the damaged object");
        if let Some(mode) = mode {
            std::fs::set_permissions(&self.path, mode).expect("its mode");
        }
    }
}

impl Drop for Damage {
    fn drop(&mut self) {
        self.put(&self.original);
    }
}
