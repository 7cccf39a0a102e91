//! Exactly what the TOML file says.

use serde::{Deserialize, Serialize};

use super::check::Checker;
use super::{
    AugmentFile, BucketsFile, ClipRule, CropRule, Media, Method, Multigrid, NormaliseName,
    PhaseFile, Pixels, Recipe, RecipeError, Resize, Stage, TargetFile, ViewFile,
};
use crate::mask::MaskFile;

/// One stage as the file has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageFile {
    /// Rows of a batch; absent beside `token_budget`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<u32>,
    /// Most tokens of the first views of a batch: the rows of every shape follow from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_budget: Option<u32>,
    /// What the rows that follow from `token_budget` are a multiple of, for example the number of
    /// processes that share a batch; 1 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_multiple: Option<u32>,
    /// Clips (or crops) taken from one decoded sample.
    #[serde(default = "one")]
    pub repeats: u16,
    /// How frames are chosen; needed for videos.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<ClipRule>,
    /// The `repeats` of a video have the same frames, each cropped and changed on its own: VideoMAE's
    /// and SlowFast's `num_sample`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub share_frames: bool,
    /// Clips of videos re-encoded for training start at any frame, as the published rules say;
    /// where absent, less than a stride earlier, at a frame from which all of them are cheap to decode.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exact_start: bool,
    /// How the region is chosen.
    pub crop: CropRule,
    /// Probability of mirroring.
    #[serde(default)]
    pub flip: f64,
    /// How pixels are resized.
    pub resize: Resize,
    /// Arithmetic of the pixels; absent: `fast` in pre-training where it can be, else `exact`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pixels: Option<Pixels>,
    /// Pictures may be taken from the smaller encodings of a pyramid that shards hold, where no crop
    /// of the sample is enlarged by that: see [`crate::plan::SamplePlan::at_level`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pyramid: bool,
    /// Which tokens are hidden.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<MaskFile>,
    /// What is predicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetFile>,
    /// Other changes of the pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub augment: Option<AugmentFile>,
    /// Further views of a row.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub views: Vec<ViewFile>,
    /// Shapes by epoch and batch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<PhaseFile>,
    /// Shapes by SlowFast's multigrid schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multigrid: Option<Multigrid>,
    /// Shapes by the aspect of the samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buckets: Option<BucketsFile>,
    /// The trainer's table; not looked at here.
    #[serde(default, skip_serializing_if = "toml::Table::is_empty")]
    pub train: toml::Table,
}

const fn one() -> u16 {
    1
}

/// A recipe as its file has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeFile {
    /// Its name.
    pub name: String,
    /// Its method.
    pub method: Method,
    /// Where the numbers come from.
    pub source: String,
    /// What deviates from the source, for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deviations: Vec<String>,
    /// Pictures or videos.
    pub media: Media,
    /// Extent of a token: frames, rows, columns.
    pub patch: [u32; 3],
    /// Mean and standard deviation of the pixels.
    pub normalise: NormaliseName,
    /// The trainer's table; not looked at here. Absent where the recipe describes data alone.
    #[serde(default, skip_serializing_if = "toml::Table::is_empty")]
    pub model: toml::Table,
    /// Masked pre-training; absent where the recipe is of supervised training alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretrain: Option<StageFile>,
    /// Supervised fine-tuning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finetune: Option<StageFile>,
    /// Evaluation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval: Option<StageFile>,
}

impl RecipeFile {
    /// Reads `text`; `name` is for errors, `overrides` are `key=value` with dotted keys, applied
    /// before anything is checked. A value that is not TOML is taken as a string. Of `batch_size` and
    /// `token_budget` the one that is set replaces the other.
    ///
    /// # Errors
    /// On bad TOML, unknown or missing keys, and values no stage can use.
    pub fn parse(name: &str, text: &str, overrides: &[String]) -> Result<Self, RecipeError> {
        let mut file = match overrides {
            [] => typed(name, toml::Deserializer::parse(text).map_err(|e| syntax(name, &e))?)?,
            _ => {
                let mut table: toml::Table = toml::from_str(text).map_err(|e| syntax(name, &e))?;
                for item in overrides {
                    apply_override(&mut table, item)?;
                }
                typed(name, table)?
            }
        };
        if file.stages().next().is_none() {
            return Err(RecipeError::Value {
                recipe: name.to_owned(),
                key: "pretrain, finetune and eval".to_owned(),
                value: "absent".to_owned(),
                valid: "at least one of the tables".to_owned(),
            });
        }
        for stage in file.stages().collect::<Vec<_>>() {
            // Said, where it was the default.
            let pixels = Some(file.stage(stage)?.pixels());
            match stage {
                Stage::Pretrain => file.pretrain.iter_mut().for_each(|table| table.pixels = pixels),
                Stage::Finetune => file.finetune.iter_mut().for_each(|table| table.pixels = pixels),
                Stage::Eval => file.eval.iter_mut().for_each(|table| table.pixels = pixels),
            }
        }
        Ok(file)
    }

    /// The file's text again, with what was set.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_else(|e| format!("# cannot be written: {e}\n"))
    }

    /// The stages it has.
    pub fn stages(&self) -> impl Iterator<Item = Stage> {
        Stage::ALL.into_iter().filter(|stage| self.stage_file(*stage).is_some())
    }

    /// One stage as it is in the file.
    pub fn stage_file(&self, stage: Stage) -> Option<&StageFile> {
        match stage {
            Stage::Pretrain => self.pretrain.as_ref(),
            Stage::Finetune => self.finetune.as_ref(),
            Stage::Eval => self.eval.as_ref(),
        }
    }

    /// Resolves and checks one stage.
    ///
    /// # Errors
    /// When the recipe has no such stage or a value is impossible: the error names the key, the value
    /// and what would be valid.
    pub fn stage(&self, stage: Stage) -> Result<Recipe, RecipeError> {
        let table = self.stage_file(stage).ok_or_else(|| {
            let has: Vec<&str> = self.stages().map(Stage::name).collect();
            RecipeError::Value {
                recipe: self.name.clone(),
                key: stage.name().to_owned(),
                value: "absent".to_owned(),
                valid: format!("the recipe describes {} alone", has.join(" and ")),
            }
        })?;
        let checker = Checker { file: self, stage, table, out: None };
        let (phases, buckets) = (checker.phases()?, checker.buckets()?);
        // The first shape speaks for the whole where a shape is not asked for.
        match (phases.first(), &buckets) {
            (Some(first), _) => Ok(Recipe { phases: phases.clone(), ..(*first.shapes[0]).clone() }),
            (None, Some(all)) => {
                Ok(Recipe { buckets: buckets.clone(), ..(*all.shapes[0]).clone() })
            }
            (None, None) => checker.recipe(),
        }
    }
}

/// The file's fields; an error says which key they end at, beside what and where in the text.
fn typed<'de, D>(name: &str, text: D) -> Result<RecipeFile, RecipeError>
where
    D: serde::Deserializer<'de, Error = toml::de::Error>,
{
    serde_path_to_error::deserialize(text).map_err(|error| {
        let path = error.path().to_string();
        match syntax(name, error.inner()) {
            RecipeError::Syntax { recipe, message } if path != "." => {
                RecipeError::Syntax { recipe, message: format!("{path}: {message}") }
            }
            other => other,
        }
    })
}

/// What TOML's parser says.
fn syntax(name: &str, error: &toml::de::Error) -> RecipeError {
    let message = error.to_string().trim_end().to_owned();
    RecipeError::Syntax { recipe: name.to_owned(), message }
}

/// Sets `a.b.c=value` in `table`.
fn apply_override(table: &mut toml::Table, item: &str) -> Result<(), RecipeError> {
    let bad = || RecipeError::Override(item.to_owned());
    let (key, value) = item.split_once('=').ok_or_else(bad)?;
    let mut path: Vec<&str> = key.trim().split('.').collect();
    let last = path.pop().filter(|k| !k.is_empty()).ok_or_else(bad)?;
    let value = format!("v = {}", value.trim())
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| toml::Value::String(value.trim().to_owned()));
    let mut at = table;
    for key in path {
        let next = at.entry(key).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        at = next.as_table_mut().ok_or_else(bad)?;
    }
    let twin = match last {
        "batch_size" => "token_budget",
        "token_budget" => "batch_size",
        _ => "",
    };
    at.remove(twin);
    at.insert(last.to_owned(), value);
    Ok(())
}
