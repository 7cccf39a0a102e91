//! `tubelet plan`: a conversion as many tasks of a cluster.

use anyhow::{Result, bail};
use clap::{Args, FromArgMatches, ValueEnum};

use tubelet_formats::store::{Location, locate};

use crate::common::Usage;
use crate::convert::ConvertArgs;

/// Who runs the tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Cluster {
    /// A script that submits a Slurm array and the merging job that waits for it
    Slurm,
    /// A Kubernetes Indexed Job
    Kubernetes,
}

#[derive(Args)]
pub(crate) struct PlanArgs {
    /// Who runs the tasks
    #[arg(long = "for", value_enum, value_name = "CLUSTER")]
    cluster: Cluster,
    /// Number of tasks
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    tasks: u32,
    /// Cores of a task
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    cores: u32,
    /// Memory of a task in GiB
    #[arg(long, value_name = "GIB", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    memory: u32,
    /// With --for kubernetes: container image that has tubelet
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// With --for kubernetes: volume claim that holds data and output
    #[arg(long, value_name = "CLAIM", requires = "mount")]
    claim: Option<String>,
    /// With --claim: where it is mounted
    #[arg(long, value_name = "PATH", requires = "claim")]
    mount: Option<String>,
    /// What `tubelet convert` is to be told, without --task: PATH -o DIR …
    #[arg(last = true, required = true, value_name = "CONVERT ARGUMENTS")]
    convert: Vec<String>,
}

pub(crate) fn run(args: &PlanArgs) -> Result<bool> {
    let parsed = checked(&args.convert)?;
    let words = ["tubelet", "convert"].map(str::to_owned).into_iter().chain(args.convert.clone());
    let tasks = args.tasks;
    let mut words: Vec<String> = words.collect();
    words.extend([format!("--task=auto/{tasks}"), format!("--workers={}", args.cores)]);
    let merge = merging(&parsed);
    match args.cluster {
        Cluster::Slurm => {
            if args.image.is_some() || args.claim.is_some() {
                bail!(Usage("--image and --claim are for --for kubernetes".to_owned()));
            }
            if let Ok(Location::Local(data)) = locate(parsed.data())
                && !data.exists()
                && !data.to_string_lossy().contains('{')
            {
                bail!(Usage(format!("{}: there is no such file or folder", data.display())));
            }
            print!("{}", slurm(args, &words, &merge));
        }
        Cluster::Kubernetes => {
            let Some(image) = &args.image else {
                bail!(Usage("--for kubernetes needs --image, one that has tubelet".to_owned()));
            };
            for path in [parsed.data(), parsed.output()] {
                if let Ok(Location::Local(path)) = locate(path)
                    && path.is_relative()
                {
                    bail!(Usage(format!(
                        "{}: a pod has another folder to start in; write the whole path there, or a URL",
                        path.display()
                    )));
                }
            }
            print!("{}", kubernetes(args, image, &words));
            eprintln!("when all tasks are done: {merge}");
        }
    }
    Ok(true)
}

/// The command that joins what the tasks wrote, for a shell.
fn merging(convert: &ConvertArgs) -> String {
    let mut words = vec!["tubelet".to_owned(), "merge".to_owned()];
    if let Some(endpoint) = convert.endpoint() {
        words.extend(["--endpoint".to_owned(), endpoint.to_owned()]);
    }
    words.push(convert.output().to_string_lossy().into_owned());
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// The conversion's arguments, refused now rather than in every task.
fn checked(arguments: &[String]) -> Result<ConvertArgs> {
    let command = ConvertArgs::augment_args(clap::Command::new("tubelet convert"));
    let words = std::iter::once("tubelet convert").chain(arguments.iter().map(String::as_str));
    let wrong = |e: clap::Error| Usage(e.to_string().trim_start_matches("error: ").to_owned());
    let matches = command.try_get_matches_from(words).map_err(wrong)?;
    let parsed = ConvertArgs::from_arg_matches(&matches).map_err(wrong)?;
    if parsed.has_task() || arguments.iter().any(|a| a.starts_with("--workers")) {
        bail!(Usage("leave --task and --workers out: the plan sets them".to_owned()));
    }
    parsed.options()?;
    Ok(parsed)
}

fn slurm(args: &PlanArgs, words: &[String], merge: &str) -> String {
    let command = words.iter().map(|w| quoted(w)).collect::<Vec<_>>().join(" ");
    let (last, cores, memory) = (args.tasks - 1, args.cores, args.memory);
    format!(
        "#!/bin/bash
# Run this file by bash: it submits the tasks, and the job that joins what they wrote. A task that
# fails or is stopped may be run again by running this file again: finished shards are kept.
set -euo pipefail
job=$(sbatch --parsable <<'TASKS'
#!/bin/bash
#SBATCH --job-name=tubelet-convert
#SBATCH --array=0-{last}
#SBATCH --cpus-per-task={cores}
#SBATCH --mem={memory}G
#SBATCH --requeue
set -euo pipefail
srun {command}
TASKS
)
echo \"tasks: job ${{job%%;*}}\" >&2
sbatch --dependency=afterok:\"${{job%%;*}}\" --kill-on-invalid-dep=yes <<'MERGE'
#!/bin/bash
#SBATCH --job-name=tubelet-merge
set -euo pipefail
srun {merge}
MERGE
"
    )
}

fn kubernetes(args: &PlanArgs, image: &str, words: &[String]) -> String {
    let (tasks, cores, memory) = (args.tasks, args.cores, args.memory);
    let words: Vec<String> = words.iter().map(|w| json(w)).collect();
    let (command, arguments) = (&words[0], words[1..].join(", "));
    let image = json(image);
    let (mut mounts, mut volumes) = (String::new(), String::new());
    if let (Some(claim), Some(mount)) = (&args.claim, &args.mount) {
        let (claim, mount) = (json(claim), json(mount));
        mounts = format!("        volumeMounts:\n        - {{name: data, mountPath: {mount}}}\n");
        volumes = format!(
            "      volumes:\n      - name: data\n        persistentVolumeClaim: {{claimName: {claim}}}\n"
        );
    }
    format!(
        "apiVersion: batch/v1
kind: Job
metadata:
  name: tubelet-convert
spec:
  completionMode: Indexed
  completions: {tasks}
  parallelism: {tasks}
  backoffLimit: {tasks}
  template:
    spec:
      restartPolicy: OnFailure
      containers:
      - name: convert
        image: {image}
        command: [{command}]
        args: [{arguments}]
        resources:
          requests: {{cpu: \"{cores}\", memory: {memory}Gi}}
          limits: {{memory: {memory}Gi}}
{mounts}{volumes}"
    )
}

/// A string of YAML, which reads JSON's.
fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A word of a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(quoted("a/b-c.mp4"), "a/b-c.mp4");
        assert_eq!(quoted("it's here"), "'it'\\''s here'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn the_conversion_is_checked_now() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(checked(&words("in -o out --video train")).is_ok());
        for wrong in ["in", "in -o out --video tiny", "in -o out --task 1/2"] {
            assert!(checked(&words(wrong)).is_err(), "{wrong}");
        }
    }
}
