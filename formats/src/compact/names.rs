//! Paths end to end, their folders once.

use std::collections::HashMap;

use super::Column;

/// Names with forward slashes, in a fixed order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    /// Folders with their last slash, in the order of their first use.
    pub(crate) folders: Vec<String>,
    /// The folder of each name.
    pub(crate) folder: Column<u32>,
    /// Where the last part of each name ends.
    pub(crate) ends: Column<u64>,
    /// The last parts.
    pub(crate) text: Column<u8>,
    numbers: HashMap<String, u32>,
}

impl Names {
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn push(&mut self, name: &str) {
        let split = name.rfind('/').map_or(0, |slash| slash + 1);
        let (folder, last) = name.split_at(split);
        let number = self.number(folder);
        self.folder.push(number);
        let text = self.text.to_mut();
        text.extend_from_slice(last.as_bytes());
        let end = text.len() as u64;
        self.ends.push(end);
    }

    /// Name `n`; empty where there is none.
    pub(crate) fn get(&self, n: usize) -> String {
        let end = self.ends.get(n).unwrap_or(0) as usize;
        let start = if n == 0 { 0 } else { self.ends.get(n - 1).unwrap_or(0) as usize };
        let last = self.text.as_slice().get(start..end).unwrap_or_default();
        let folder = self.folder.get(n).and_then(|f| self.folders.get(f as usize));
        let folder = folder.map_or("", String::as_str);
        let mut name = String::with_capacity(folder.len() + last.len());
        name.push_str(folder);
        name.push_str(&String::from_utf8_lossy(last));
        name
    }

    /// Adds all names of `other`.
    pub(crate) fn append(&mut self, other: &Self) {
        let numbers: Vec<u32> = other.folders.iter().map(|f| self.number(f)).collect();
        let number = |f: &u32| numbers.get(*f as usize).copied().unwrap_or(0);
        self.folder.to_mut().extend(other.folder.as_slice().iter().map(number));
        let before = self.text.len() as u64;
        self.ends.to_mut().extend(other.ends.as_slice().iter().map(|end| before + end));
        self.text.to_mut().extend_from_slice(other.text.as_slice());
    }

    /// No more will be added.
    pub(crate) fn shrink(&mut self) {
        self.folder.shrink();
        self.ends.shrink();
        self.text.shrink();
        self.numbers = HashMap::new();
    }

    fn number(&mut self, folder: &str) -> u32 {
        if let Some(number) = self.numbers.get(folder) {
            return *number;
        }
        let number = self.folders.len() as u32;
        self.folders.push(folder.to_owned());
        self.numbers.insert(folder.to_owned(), number);
        number
    }
}

impl PartialEq for Names {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && (0..self.len()).all(|n| self.get(n) == other.get(n))
    }
}

impl Eq for Names {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_was_added() {
        let all = ["a/b/c.mp4", "", "/", "x", "a/b/", "ä/日.jpg", "a/b/c.mp4", "a/d"];
        let (mut one, mut two) = (Names::default(), Names::default());
        all.iter().for_each(|name| one.push(name));
        all[..3].iter().for_each(|name| two.push(name));
        let mut rest = Names::default();
        all[3..].iter().for_each(|name| rest.push(name));
        two.append(&rest);
        two.shrink();
        assert_eq!(one, two);
        assert_eq!((0..all.len()).map(|n| two.get(n)).collect::<Vec<_>>(), all);
        assert_eq!(two.folders.len(), 5);
        assert_eq!(two.get(all.len()), "");
    }
}
