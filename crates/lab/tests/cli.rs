//! The program from outside: exit statuses, one-line errors, nothing half-written.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use lab::png::Png;
use lab::recipe::Recipe;
use lab::run_dir::RunDir;
use tempfile::TempDir;

fn lab(root: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    command.current_dir(root).args(arguments).env_remove("DATA_DIR").env_remove("CARGO");
    command
}

/// Runs it, expects exit status 0, and returns what it printed.
fn done(root: &TempDir, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = lab(root, arguments).output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

fn root() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Runs it, expects exit status 2 and one line of error, and that it left nothing but what was there.
fn refused(root: &TempDir, arguments: &[&str]) -> String {
    let before = names(root.path());
    let output = lab(root, arguments).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert_eq!(error.trim_end().lines().count(), 1, "{error}");
    assert!(output.stdout.is_empty());
    assert_eq!(names(root.path()), before, "{error}");
    error.trim_end().to_owned()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Flags of a run that takes a moment.
const QUICK: &[&str] = &["train", "--config", "quick.toml", "--epochs", "1", "--out", "run"];

fn with_quick_recipe() -> TempDir {
    let root = root();
    let text = "[data]\nlimit = 200\n[model]\nname = \"mlp\"\nhidden = 16\n[spectrum]\niterations = 5\nexamples = 32\n";
    fs::write(root.path().join("quick.toml"), text).unwrap();
    root
}

#[test]
fn the_printed_recipe_is_the_default_and_reads_back() {
    let root = root();
    let text = done(&root, &["train", "--print-config"]);
    assert_eq!(Recipe::parse(&text, "").unwrap(), Recipe::default());
    assert_eq!(done(&root, &["--print-config"]), text);
    fs::write(root.path().join("r.toml"), &text).unwrap();
    let changed = done(&root, &["train", "--config", "r.toml", "--epochs", "7", "--print-config"]);
    assert_eq!(Recipe::parse(&changed, "").unwrap().train.epochs, 7);
    assert_eq!(names(root.path()), ["r.toml"]);
}

#[test]
fn a_run_leaves_a_whole_folder() {
    let root = with_quick_recipe();
    let output = done(&root, QUICK);
    for part in ["test accuracy", "train accuracy", "time", "gradient norm", "sharpness", "run/report.html"] {
        assert!(output.contains(part), "{part} in {output}");
    }
    assert!(output.contains("lab train --resume run --epochs 2"), "{output}");
    let run = root.path().join("run");
    assert_eq!(names(&run), ["checkpoint", "metrics.jsonl", "recipe.toml", "report.html"]);
    assert_eq!(names(&run.join("checkpoint")).len(), 1);
    assert_eq!(names(root.path()), ["quick.toml", "run"]);
    // A second run does not touch it, and a resumed one goes on in it.
    let message = refused(&root, QUICK);
    assert!(message.starts_with("error: run: exists already; choose another --out"), "{message}");
    done(&root, &["train", "--resume", "run", "--epochs", "2"]);
    let metrics = fs::read(run.join("metrics.jsonl")).unwrap();
    let message = refused(&root, &["train", "--resume", "run"]);
    assert!(fs::read(run.join("metrics.jsonl")).unwrap() == metrics);
    assert_eq!(message, "error: run: train.epochs = 2: expected more than the 2 epochs done, by --epochs");
}

#[test]
fn without_a_name_the_folder_is_named_by_the_time() {
    let root = with_quick_recipe();
    done(&root, &["--config", "quick.toml", "--epochs", "1"]);
    let runs = names(&root.path().join("runs"));
    assert!(runs.len() == 1 && runs[0].len() == "20260101-000000".len(), "{runs:?}");
}

#[test]
fn bad_flags_and_recipes_are_one_line() {
    let root = root();
    let cases: &[(&[&str], &str)] = &[
        (&["train", "--epochs", "0"], "error: --epochs: train.epochs = 0: expected an integer from 1 to 100000"),
        (&["train", "--epochs", "-3"], "error: --epochs: train.epochs = -3: expected an integer from 1 to 100000"),
        (&["train", "--lr", "fast"], "error: --lr: optimizer.lr = fast: expected a number from 1e-12 to 1000.0"),
        (&["train", "--model", "vgg"], "error: --model: model.name = vgg: expected one of cnn, mlp"),
        (&["train", "--data", "cifar"], "error: --data: data.name = cifar: expected one of digits, mnist"),
        (&["train", "--config", "no.toml"], "error: no.toml: cannot be read: "),
        (&["train", "--resume", "no"], "error: no: is no run folder: it has no recipe.toml"),
        (
            &["train", "--resume", "no", "--lr", "1"],
            "error: the argument '--resume <DIR>' cannot be used with '--lr <X>'",
        ),
        (&["train", "--frobnicate"], "error: unexpected argument '--frobnicate' found"),
        (&["cook"], "error: unrecognized subcommand 'cook'"),
    ];
    for (arguments, expected) in cases {
        let message = refused(&root, arguments);
        assert!(message.starts_with(expected), "{message}");
    }
    let recipes = [
        ("[train]\nepochs = 1.5", "error: r.toml: train.epochs = 1.5: expected an integer from 1 to 100000"),
        (
            "[train]\nepoch = 1",
            "error: r.toml: unknown field train.epoch (known here: epochs, batch_size, seed, ema, metric, patience, keep)",
        ),
        ("[train", "error: r.toml, line 1: not valid TOML: "),
    ];
    for (text, expected) in recipes {
        fs::write(root.path().join("r.toml"), text).unwrap();
        let message = refused(&root, &["train", "--config", "r.toml"]);
        assert!(message.starts_with(expected), "{message}");
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_one_line() {
    let root = root();
    fs::write(root.path().join("file"), "").unwrap();
    let message = refused(&root, &["train", "--out", "file/run"]);
    assert!(message.starts_with("error: file/run: cannot be written: "), "{message}");
    assert!(refused(&root, &["train", "--out", "file"]).starts_with("error: file: exists already"));
}

#[test]
fn bad_data_is_one_line() {
    let root = root();
    let message = refused(&root, &["train", "--data", "mnist", "--data-dir", "none"]);
    assert!(message.starts_with("error: MNIST training images: none of none/train-images-idx3-ubyte"), "{message}");
    assert!(refused(&root, &["train", "--data", "mnist"]).contains("../shared/data/mnist/train-images-idx3-ubyte"));
    let put = |name: &str, bytes: &[u8]| fs::write(root.path().join(name), bytes).unwrap();
    let images = [0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 5, 6];
    put("train-images-idx3-ubyte", &images[..17]);
    put("train-labels-idx1-ubyte", &[0, 0, 8, 1, 0, 0, 0, 3, 1, 2, 3]);
    let here = ["train", "--data", "mnist", "--data-dir", "."];
    assert_eq!(
        refused(&root, &here),
        "error: ./train-images-idx3-ubyte: truncated: 1 of the 2 bytes that sizes 2 x 1 x 1 promise"
    );
    put("train-images-idx3-ubyte", &images);
    assert!(refused(&root, &here).contains("3 labels for the 2 images of "));
    put("train-labels-idx1-ubyte", &images);
    assert!(refused(&root, &here).ends_with("magic number 0x00000803, expected 0x00000801"));
    put("train-labels-idx1-ubyte", &[0, 0, 8, 1, 0, 0, 0, 2, 1, 2]);
    put("t10k-images-idx3-ubyte", &images);
    put("t10k-labels-idx1-ubyte", &[0, 0, 8, 1, 0, 0, 0, 2, 1, 2]);
    assert!(refused(&root, &here).starts_with("error: images of 1 x 1 pixels: model.name = cnn: expected mlp, or "));
}

#[test]
fn an_unknown_device_is_one_line() {
    let root = root();
    let output = lab(&root, &["train"]).env("BURN_DEVICE", "abacus").output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(
        error.starts_with("error: ") && error.contains("abacus") && error.trim_end().lines().count() == 1,
        "{error}"
    );
    assert!(names(root.path()).is_empty());
}

#[test]
fn a_run_that_diverges_says_so_and_keeps_a_good_checkpoint() {
    let root = with_quick_recipe();
    let flags = [QUICK, &["--optimizer", "sgd", "--lr", "1000"]].concat();
    let output = lab(&root, &flags).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    let last = error.trim_end().lines().last().unwrap();
    assert!(last.starts_with("diverged: "), "{error}");
    assert_eq!(names(&root.path().join("run/checkpoint")), ["step-00000000"]);
    let report = fs::read_to_string(root.path().join("run/report.html")).unwrap();
    assert!(report.contains("diverged"));
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_is_resumed_to_the_same_end() {
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    let root = with_quick_recipe();
    let whole = ["train", "--config", "quick.toml", "--out", "whole", "--epochs"];
    let mut process = lab(&root, &["train", "--config", "quick.toml", "--out", "parts", "--epochs", "100000"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let metrics = root.path().join("parts/metrics.jsonl");
    let begun = Instant::now();
    while fs::metadata(&metrics).map_or(0, |file| file.len()) < 5000 {
        assert!(begun.elapsed() < Duration::from_secs(60), "no metrics after a minute");
        std::thread::sleep(Duration::from_millis(2));
    }
    let sent = Command::new("kill").args(["-INT", &process.id().to_string()]).status().unwrap();
    assert!(sent.success());
    assert_eq!(process.wait().unwrap().code(), Some(130));

    let (_, position) = RunDir::inspect(&root.path().join("parts")).unwrap();
    let epochs = (position.epochs + 2).to_string();
    done(&root, &["train", "--resume", "parts", "--epochs", &epochs]);
    done(&root, &[&whole[..], &[&epochs]].concat());
    let model = |name: &str| {
        let checkpoints = root.path().join(name).join("checkpoint");
        fs::read(checkpoints.join(&names(&checkpoints)[0]).join("model.bpk")).unwrap()
    };
    assert!(model("parts") == model("whole"));
}

#[test]
fn an_attack_shows_what_is_read_before_and_after() {
    let root = root();
    let text = done(&root, &["attack", "image", "--digit", "3", "--out", "a"]);
    assert!(
        text.contains("picture: number 3 of the test set, labelled 8") && text.contains("of the test set right"),
        "{text}"
    );
    assert!(text.contains("APGD-CE, within 0.15 in Linf: 8 to be read as anything else"), "{text}");
    assert!(text.contains("\n  before     8 ") && text.contains("\n  misled: distance 0.1"), "{text}");
    assert_eq!(names(&root.path().join("a")), ["after.png", "before.png", "difference.png"]);
    let png = |name: &str| Png::read(&root.path().join(name)).unwrap();
    let (before, after) = (png("a/before.png"), png("a/after.png"));
    assert_eq!((before.width, before.height(), before.channels, png("a/difference.png").channels), (8, 8, 1, 3));
    let far = before.samples.iter().zip(&after.samples).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!((30..=39).contains(&far), "0.15 of 255 is 38.25: {far}");

    // The same picture from its file, in colours and with light ink, heading for a class.
    let coloured = |samples: &[u8]| samples.iter().flat_map(|x| [255 - x; 3]).collect();
    let light = Png { width: 8, channels: 3, samples: coloured(&before.samples) };
    fs::write(root.path().join("light.png"), light.encode()).unwrap();
    let flags = ["attack", "image", "light.png", "--light-ink", "--attack", "fmn", "--norm", "l2", "--target", "3"];
    let text = done(&root, &[&flags[..], &["--out", "b"]].concat());
    assert!(text.contains("nearest in L2: 8 to be read as 3") && text.contains("misled"), "{text}");
    assert_eq!(png("b/before.png").samples, light.samples.chunks(3).map(|pixel| pixel[0]).collect::<Vec<_>>());
    // The same again, but for the seconds.
    let again = done(&root, &[&flags[..], &["--out", "c"]].concat()).replace("c/before", "b/before");
    let lines =
        |text: &str| text.lines().filter(|line| !line.starts_with("model:")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&text), lines(&again));
}

#[test]
fn a_sentence_that_cannot_be_attacked_is_refused() {
    let root = with_quick_recipe();
    let cases: &[(&[&str], &str)] = &[
        (&[" ,. "], "error: lab attack text: SENTENCE =  ,. : expected at least one word"),
        (&["a film", "--changed", "0"], "error: lab attack text: --changed = 0: expected a share above 0, at most 1"),
        (&["a film", "--label", "good"], "error: lab attack text: --label = good: expected one of negative, positive"),
        (&["a film", "--model", "none"], "error: none/vocabulary.txt: "),
    ];
    for (flags, expected) in cases {
        let message = refused(&root, &[&["attack", "text"], *flags].concat());
        assert!(message.starts_with(expected), "{expected}: {message}");
    }
}

#[test]
fn an_attack_takes_a_trained_model_and_refuses_what_cannot_be() {
    let root = with_quick_recipe();
    done(&root, QUICK);
    let text = done(&root, &["attack", "image", "--model", "run", "--attack", "pgd", "--out", "a"]);
    assert!(text.contains("model: run, step 4\nPGD-"), "{text}");
    fs::write(root.path().join("text.png"), "no picture").unwrap();
    let wide = Png { width: 9, channels: 1, samples: vec![0; 72] };
    fs::write(root.path().join("wide.png"), wide.encode()).unwrap();
    fs::write(root.path().join("cut.png"), &wide.encode()[..50]).unwrap();
    let cases: &[(&[&str], &str)] = &[
        (&["none.png"], "error: none.png: cannot be read: "),
        (&["text.png"], "error: text.png: is no PNG that can be read: "),
        (&["wide.png"], "error: wide.png: 9 x 8 pixels, expected 8 x 8, the model's images"),
        (&["cut.png"], "error: cut.png: is no PNG that can be read: "),
        (&["--digit", "355"], "error: --digit: digit = 355: expected 0 to 354, the test set"),
        (&["--digit", "3", "--target", "8"], "error: --target: target = 8: expected another class than its own, 8"),
        (&["--target", "10"], "error: --target: target = 10: expected 0 to 9"),
        (&["--epsilon", "-1"], "error: unexpected argument '-1' found"),
        (&["--epsilon=-1"], "error: --epsilon: epsilon = -1: expected a finite number, at least 0"),
        (
            &["--epsilon=1", "--attack=fmn"],
            "error: --epsilon: epsilon = 1: expected none: this attack looks for the nearest",
        ),
        (&["--attack", "square", "--norm", "l1"], "error: --attack: Square"),
        (&["--attack", "prayer"], "error: invalid value 'prayer' for '--attack <NAME>'"),
        (&["--model", "a"], "error: a: is no run folder: it has no recipe.toml"),
        (&["--out", "a"], "error: a: exists already; choose another --out"),
    ];
    for (arguments, expected) in cases {
        let model: &[&str] = if arguments.contains(&"--model") { &[] } else { &["--model", "run"] };
        let message = refused(&root, &[&["attack", "image"], *arguments, model].concat());
        assert!(message.starts_with(expected), "{message}");
    }
}
