//! Class numbers from what samples say of their classes: a number, a name, or a number written as
//! text.
//!
//! Numbers stay what they are and are never counted anew. Where the texts are numbers, all must be:
//! one odd text among them would turn every number into the place of a sorted name.

use std::collections::{BTreeSet, HashMap};

/// Most classes that numbers may count.
pub(super) const MAX_CLASSES: u32 = 1 << 20;
/// What lists and archives write for a sample without a class.
const UNLABELLED: &str = "-1";

/// The classes of a data set.
pub(super) struct Labels {
    /// Names in label order.
    pub(super) names: Vec<String>,
    /// Whether texts are numbers.
    numbers: bool,
    by_name: HashMap<String, u32>,
}

/// A text that is no class number among others that are.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Odd {
    /// Which sample says it.
    pub(super) sample: usize,
    /// What is wrong with it.
    pub(super) what: String,
}

/// What one sample says: a number, and a name or a number as text.
type Said<'a> = (Option<u32>, Option<&'a str>);

impl Labels {
    /// The classes that `samples` tell.
    pub(super) fn of<'a>(samples: impl Iterator<Item = Said<'a>> + Clone) -> Result<Self, Odd> {
        let most = samples.clone().filter_map(|s| s.0).filter(|l| *l < MAX_CLASSES).max();
        let texts = || texts(samples.clone());
        let numeric = texts().filter(|(_, text)| number(text).is_some()).count();
        let total = texts().count();
        if most.is_none() && (total == 0 || numeric * 2 <= total) {
            let names: BTreeSet<&str> = texts().map(|(_, text)| text).collect();
            return Ok(Self::new(names.into_iter().map(str::to_owned).collect(), false));
        }
        let most = most.into_iter().chain(texts().filter_map(|(_, text)| number(text))).max();
        let mut names: Vec<String> =
            (0..most.map_or(0, |m| m + 1)).map(|label| label.to_string()).collect();
        for (label, name) in samples.clone() {
            if let (Some(label), Some(name)) = (label, name)
                && let Some(own) = names.get_mut(label as usize)
            {
                name.clone_into(own);
            }
        }
        let labels = Self::new(names, true);
        let known = |text: &str| number(text).is_some() || labels.by_name.contains_key(text);
        match texts().find(|(_, text)| !known(text)) {
            None => Ok(labels),
            Some((sample, text)) => {
                let what = match text.parse::<u64>() {
                    Ok(_) => format!("class number {text}: at most {}", MAX_CLASSES - 1),
                    Err(_) => format!(
                        "its class is `{text}`, but the classes of other samples are numbers (-1 for none)"
                    ),
                };
                Err(Odd { sample, what })
            }
        }
    }

    fn new(names: Vec<String>, numbers: bool) -> Self {
        let by_name = names.iter().enumerate().map(|(n, name)| (name.clone(), n as u32)).collect();
        Self { names, numbers, by_name }
    }

    /// The label of a sample that says this.
    pub(super) fn label(&self, (own, text): Said<'_>) -> Option<u32> {
        let of_text = |text: &str| match number(text).filter(|_| self.numbers) {
            Some(number) => Some(number),
            None => self.by_name.get(text).copied(),
        };
        own.or_else(|| of_text(text.filter(|t| *t != UNLABELLED)?))
    }
}

/// The texts of samples that say no number, with the samples' places.
fn texts<'a>(samples: impl Iterator<Item = Said<'a>>) -> impl Iterator<Item = (usize, &'a str)> {
    samples.enumerate().filter_map(|(n, (label, text))| match label {
        None => text.filter(|t| *t != UNLABELLED).map(|t| (n, t)),
        Some(_) => None,
    })
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|n| *n < MAX_CLASSES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_numbers_and_names_are_sorted() {
        fn of<'a>(samples: &[Said<'a>]) -> Result<(Vec<String>, Vec<Option<u32>>), Odd> {
            let labels = Labels::of(samples.iter().copied())?;
            let own = samples.iter().map(|s| labels.label(*s)).collect();
            Ok((labels.names, own))
        }
        let text = |text| (None, Some(text));
        let (names, own) = of(&[text("10"), text("2"), text("-1")]).expect("numbers");
        assert_eq!((names[2].as_str(), names.len()), ("2", 11));
        assert_eq!(own, [Some(10), Some(2), None]);
        let (names, own) = of(&[text("b"), text("a"), text("3"), (None, None)]).expect("names");
        assert_eq!(names, ["3", "a", "b"]);
        assert_eq!(own, [Some(2), Some(1), Some(0), None]);
        let (names, own) = of(&[(Some(1), Some("cat")), text("cat"), text("0")]).expect("both");
        assert_eq!(names, ["0", "cat"]);
        assert_eq!(own, [Some(1), Some(1), Some(0)]);
        for (odd, at) in [
            (vec![text("1"), text("2"), text("3x")], 2),
            (vec![text("cat"), (Some(3), None)], 0),
            (vec![text("0"), text("1"), text("99999999")], 2),
            (vec![text("1"), text("-2"), text("4")], 1),
        ] {
            assert_eq!(of(&odd).err().map(|o| o.sample), Some(at), "{odd:?}");
        }
        assert!(of(&[(Some(u32::MAX), None)]).expect("too many to name").0.is_empty());
    }
}
