use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use lowrank::data::image::{Augmentation, ImageDataset, ImageExamples, ImageProcessor, Part};
use lowrank::data::{Batch, BatchPlan, BatchSource, Batches, Dataset, Labels, Pass, Position};
use lowrank::models::ImageShape;
use tempfile::TempDir;

use crate::{fixtures, shared};

/// A batch file in CIFAR-10's layout, whose pixels tell their record and their plane.
fn write_cifar(path: &Path, labels: &[u8]) {
    let records = labels.iter().enumerate().flat_map(|(row, &label)| {
        std::iter::once(label).chain((0..3072).map(move |at| (row * 40 + at / 1024 * 7 + at % 5) as u8))
    });
    fs::write(path, records.collect::<Vec<u8>>()).unwrap();
}

fn idx(magic: u32, sizes: &[u32], values: &[u8]) -> Vec<u8> {
    let words = std::iter::once(magic).chain(sizes.iter().copied());
    words.flat_map(u32::to_be_bytes).chain(values.iter().copied()).collect()
}

fn reason(result: lowrank::Result<ImageExamples>) -> String {
    result.err().unwrap().to_string()
}

#[test]
fn cifar10_is_read_from_its_batches() {
    let folder = TempDir::new().unwrap();
    write_cifar(&folder.path().join("data_batch_1.bin"), &[6, 9, 0]);
    write_cifar(&folder.path().join("data_batch_3.bin"), &[2]);
    write_cifar(&folder.path().join("test_batch.bin"), &[1, 5]);
    let train = ImageExamples::cifar10(folder.path(), Part::Train).unwrap();
    let labels: Vec<_> = (0..train.len()).map(|index| train.label(index).unwrap()).collect();
    assert_eq!(labels, [6, 9, 0, 2]);
    assert_eq!(train.labels[6], "frog");
    let picture = train.picture(1).unwrap();
    assert_eq!((picture.width(), picture.height()), (32, 32));
    assert_eq!(picture.pixels()[..6], [40, 51, 57, 41, 47, 58]);
    let test = ImageExamples::cifar10(folder.path().join("test_batch.bin"), Part::Test).unwrap();
    assert_eq!(test.len(), 2);
    assert!(test.name(1).ends_with("test_batch.bin, image 2"), "{}", test.name(1));

    let path = folder.path().join("torn.bin");
    write_cifar(&path, &[1, 10]);
    assert!(reason(ImageExamples::cifar10(&path, Part::Train)).contains("image 2: its label is 10"));
    let bytes = fs::read(&path).unwrap();
    for torn in [0, 1, 3072, bytes.len() - 1] {
        fs::write(&path, &bytes[..torn]).unwrap();
        let text = reason(ImageExamples::cifar10(&path, Part::Train));
        assert!(text.contains("whole records") && text.contains("torn.bin"), "{text}");
    }
    let empty = TempDir::new().unwrap();
    assert!(reason(ImageExamples::cifar10(empty.path(), Part::Test)).contains("no test_batch.bin"));
}

#[test]
fn mnist_is_found_from_either_file() {
    let folder = TempDir::new().unwrap();
    let images = folder.path().join("t10k-images-idx3-ubyte");
    let labels = folder.path().join("t10k-labels-idx1-ubyte.gz");
    fs::write(&images, idx(0x803, &[2, 2, 3], &[0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15])).unwrap();
    let mut zipped = GzEncoder::new(Vec::new(), Compression::fast());
    zipped.write_all(&idx(0x801, &[2], &[7, 3])).unwrap();
    fs::write(&labels, zipped.finish().unwrap()).unwrap();
    for path in [&images, &labels, &folder.path().to_path_buf()] {
        let examples = ImageExamples::mnist(path, Part::Test).unwrap();
        assert_eq!((examples.len(), examples.label(0), examples.label(1)), (2, Some(7), Some(3)));
        let picture = examples.picture(1).unwrap();
        assert_eq!((picture.width(), picture.height()), (3, 2));
        assert_eq!(picture.pixels()[..6], [10, 10, 10, 11, 11, 11]);
    }
    assert!(reason(ImageExamples::mnist(folder.path(), Part::Train)).contains("train-images-idx3-ubyte"));
}

#[test]
fn idx_files_that_lie_are_errors() {
    let folder = TempDir::new().unwrap();
    let images = folder.path().join("train-images-idx3-ubyte");
    let labels = folder.path().join("train-labels-idx1-ubyte");
    let huge = u32::MAX;
    let good = idx(0x803, &[1, 1, 2], &[5, 6]);
    let cases = [
        (idx(0x801, &[1], &[5]), idx(0x801, &[1], &[5]), "not an IDX file of images"),
        (good.clone(), good.clone(), "not an IDX file of labels"),
        (idx(0x803, &[huge, huge, huge], &[5, 6]), idx(0x801, &[1], &[5]), "its header says [4294967295"),
        (idx(0x803, &[1, 1, 2], &[5]), idx(0x801, &[1], &[5]), "its header says [1, 1, 2]"),
        (idx(0x803, &[1, 1], &[]), idx(0x801, &[1], &[5]), "its header says [1, 1]"),
        (good.clone(), idx(0x801, &[2], &[5, 5]), "2 labels for the 1 images"),
        (good.clone(), idx(0x801, &[1], &[10]), "label 1 is 10"),
        (idx(0x803, &[0, 1, 2], &[]), idx(0x801, &[0], &[]), "holds no images"),
        (vec![0, 0, 8], idx(0x801, &[1], &[5]), "not an IDX file of images"),
    ];
    for (image_bytes, label_bytes, wanted) in cases {
        fs::write(&images, image_bytes).unwrap();
        fs::write(&labels, label_bytes).unwrap();
        let text = reason(ImageExamples::mnist(&images, Part::Train));
        assert!(text.contains(wanted), "{text}");
    }
    let zipped = folder.path().join("x-images-idx3-ubyte.gz");
    fs::write(&zipped, b"not gzip").unwrap();
    fs::write(folder.path().join("x-labels-idx1-ubyte"), idx(0x801, &[1], &[5])).unwrap();
    let swollen = folder.path().join("y-images-idx3-ubyte.gz");
    let mut encoder = GzEncoder::new(fs::File::create(&swollen).unwrap(), Compression::default());
    encoder.write_all(&idx(0x803, &[1, 1, 2], &vec![0; 1 << 20])).unwrap();
    encoder.finish().unwrap();
    fs::write(folder.path().join("y-labels-idx1-ubyte"), idx(0x801, &[1], &[5])).unwrap();
    let text = reason(ImageExamples::mnist(&swollen, Part::Train));
    assert!(text.contains("its header says [1, 1, 2], but it has more than 18 bytes"), "{text}");
    assert!(reason(ImageExamples::mnist(&zipped, Part::Train)).contains("not a whole gzip file"));
    assert!(reason(ImageExamples::mnist(folder.path().join("a.bin"), Part::Train)).contains("images-idx3"));
}

/// Classes `ant` and `bee` of two images each; one of the second is torn if it is asked for.
fn class_folders(torn: bool) -> Option<TempDir> {
    let images = fixtures("images")?;
    let folder = TempDir::new().unwrap();
    for (class, name, source) in
        [("bee", "1.png", "rgb_tall.png"), ("ant", "b.png", "grey.png"), ("bee", "0.jpg", "photo.jpg")]
    {
        fs::create_dir_all(folder.path().join(class)).unwrap();
        fs::copy(images.join(source), folder.path().join(class).join(name)).unwrap();
    }
    fs::create_dir(folder.path().join("ant/more")).unwrap();
    fs::copy(images.join("rgba.png"), folder.path().join("ant/more/A.PNG")).unwrap();
    fs::write(folder.path().join("ant/.hidden"), "").unwrap();
    fs::write(folder.path().join("README"), "").unwrap();
    if torn {
        fs::write(folder.path().join("bee/1.png"), b"\x89PNG...").unwrap();
    }
    Some(folder)
}

#[test]
fn folders_are_classes_in_the_order_of_their_names() {
    let Some(folder) = class_folders(false) else { return };
    let examples = ImageExamples::folder(folder.path(), None).unwrap();
    assert_eq!(examples.labels, ["ant", "bee"]);
    let found: Vec<_> = (0..examples.len())
        .map(|index| {
            let name = examples.name(index);
            (name.rsplit('/').next().unwrap().to_owned(), examples.label(index).unwrap())
        })
        .collect();
    let expected = [("b.png", 0), ("A.PNG", 0), ("0.jpg", 1), ("1.png", 1)];
    assert_eq!(found, expected.map(|(name, label)| (name.to_owned(), label)));
    let turned = ["bee".to_owned(), "ant".to_owned()];
    let examples = ImageExamples::folder(folder.path(), Some(&turned)).unwrap();
    assert_eq!((examples.label(0), examples.label(3)), (Some(1), Some(0)));
    let text = reason(ImageExamples::folder(folder.path(), Some(&turned[..1])));
    assert!(text.contains("\"ant\" is none of the labels bee"), "{text}");
    fs::write(folder.path().join("bee/list.txt"), "").unwrap();
    let mut examples = ImageExamples::folder(folder.path(), None).unwrap();
    assert!(examples.strays[0].to_string().contains("list.txt: not an image"));
    assert!(examples.drop_undecodable(true).unwrap_err().to_string().contains("list.txt"));
    let mut examples = ImageExamples::folder(folder.path(), None).unwrap();
    assert_eq!((examples.drop_undecodable(false).unwrap().len(), examples.len()), (1, 4));
    fs::create_dir(folder.path().join("cow")).unwrap();
    fs::remove_file(folder.path().join("bee/list.txt")).unwrap();
    assert!(reason(ImageExamples::folder(folder.path(), None)).contains("cow: this class has no images"));
    assert!(reason(ImageExamples::folder(folder.path().join("cow"), None)).contains("no folders"));
    assert!(reason(ImageExamples::folder(folder.path().join("dog"), None)).contains("dog"));
}

#[test]
fn an_image_that_does_not_decode_is_left_out_or_an_error() {
    let Some(folder) = class_folders(true) else { return };
    let mut examples = ImageExamples::folder(folder.path(), None).unwrap();
    let strict = examples.drop_undecodable(true).unwrap_err().to_string();
    assert!(strict.contains("bee/1.png"), "{strict}");
    assert_eq!(examples.len(), 4);
    examples.keep_decoded();
    let left_out = examples.drop_undecodable(false).unwrap();
    assert_eq!((left_out.len(), examples.len()), (1, 3));
    assert!(left_out[0].to_string().contains("bee/1.png"));
    assert!(examples.name(2).ends_with("0.jpg"));
    assert!(examples.drop_undecodable(true).unwrap().is_empty());
    // What was decoded is kept.
    fs::remove_file(folder.path().join("bee/0.jpg")).unwrap();
    assert_eq!((examples.picture(2).unwrap().width(), examples.label(2)), (33, Some(1)));
}

const SHAPE: ImageShape = ImageShape { channels: 3, size: 6, patch: 3 };

fn dataset(folder: &Path, shape: ImageShape) -> ImageDataset {
    let examples = ImageExamples::folder(folder, None).unwrap();
    let mut dataset = ImageDataset::new(examples, ImageProcessor::square(6), shape, false).unwrap();
    dataset.augmentation = Augmentation { crop_padding: 4, flip: true };
    dataset
}

fn pixels(batch: Batch) -> (Vec<f32>, [usize; 3]) {
    let BatchSource::Images(pixels) = batch.source else { panic!("images") };
    (pixels.values, [pixels.channels, pixels.height, pixels.width])
}

#[test]
fn a_picture_is_its_own_in_a_pass_wherever_it_stands_and_another_one_in_the_next() {
    let Some(folder) = class_folders(false) else { return };
    let data = dataset(folder.path(), SHAPE);
    let pass = |epoch| Some(Pass { seed: 11, epoch });
    let batch = data.gather(&[3, 0, 1], 7, pass(0)).unwrap();
    assert_eq!(batch.examples, [7, 8, 9]);
    assert_eq!(batch.labels, Labels::Classes(vec![1, 0, 0]));
    let (values, shape) = pixels(batch);
    assert_eq!((shape, values.len()), ([3, 6, 6], 3 * 108));
    assert_eq!(pixels(data.gather(&[3], 0, pass(0)).unwrap()).0, values[..108]);
    let epochs: std::collections::BTreeSet<Vec<u32>> = (0..40)
        .map(|epoch| pixels(data.gather(&[3], 0, pass(epoch)).unwrap()).0)
        .map(|values| values.iter().map(|value| value.to_bits()).collect())
        .collect();
    assert!(epochs.len() > 25, "{} different ones of 40", epochs.len());
    // What is evaluated is not changed.
    let plain = pixels(data.gather(&[3], 0, None).unwrap()).0;
    let mut unchanged = Vec::new();
    let picture = data.processor.shape(&data.examples().picture(3).unwrap()).unwrap();
    data.processor.write_values(&picture, &mut unchanged);
    assert_eq!(plain, unchanged);
    assert!(data.gather(&[4], 0, None).is_err());
    assert_eq!((data.tokens(), data.lengths()), (4 * 5, vec![5; 4]));
}

#[test]
fn a_model_of_one_colour_sees_the_brightness() {
    let Some(folder) = class_folders(false) else { return };
    let grey = ImageShape { channels: 1, ..SHAPE };
    let (values, shape) = pixels(dataset(folder.path(), grey).gather(&[0], 0, None).unwrap());
    assert_eq!(shape, [1, 6, 6]);
    // A grey picture has three equal colours.
    let colours = pixels(dataset(folder.path(), SHAPE).gather(&[0], 0, None).unwrap()).0;
    assert_eq!(values, colours[..36]);
    let two = ImageShape { channels: 2, ..SHAPE };
    let examples = ImageExamples::folder(folder.path(), None).unwrap();
    let error = ImageDataset::new(examples, ImageProcessor::square(6), two, false).unwrap_err();
    assert!(error.to_string().contains("2 colours"), "{error}");
}

#[test]
fn a_fingerprint_tells_pictures_labels_and_processors_apart() {
    let Some(folder) = class_folders(false) else { return };
    let fingerprint = || dataset(folder.path(), SHAPE).fingerprint();
    let first = fingerprint();
    assert_eq!(fingerprint(), first);
    let mut other = dataset(folder.path(), SHAPE);
    other.processor = ImageProcessor::square(7);
    assert_ne!(other.fingerprint(), first);
    let (from, to) = (folder.path().join("bee/0.jpg"), folder.path().join("ant/0.jpg"));
    fs::rename(&from, &to).unwrap();
    assert_ne!(fingerprint(), first);
    fs::rename(&to, &from).unwrap();
    assert_eq!(fingerprint(), first);
    fs::copy(folder.path().join("bee/1.png"), folder.path().join("ant/b.png")).unwrap();
    assert_ne!(fingerprint(), first);
}

#[test]
fn steps_made_ahead_are_those_made_on_the_spot() {
    let Some(folder) = class_folders(false) else { return };
    let data = dataset(folder.path(), SHAPE);
    let plan = BatchPlan { batch_size: 1, gradient_accumulation: 2, shuffle: true, seed: 5, pass: Some(5) };
    let start = Position { epoch: 1, step: 1 };
    let batches = || Batches::new(&data, plan, start).unwrap();
    let mut here = batches();
    let expected: Vec<_> =
        (0..7).map(|_| (here.rows().to_vec(), here.next_step().unwrap(), here.position())).collect();
    let taken = batches().ahead(7, |steps| {
        assert_eq!(steps.position(), start);
        for (rows, batches, position) in &expected {
            let step = steps.next_step()?;
            assert_eq!((&step.rows, &step.batches, steps.position()), (rows, batches, *position));
        }
        assert!(steps.next_step().is_err(), "there are no more than were announced");
        Ok(9)
    });
    assert_eq!(taken.unwrap(), 9);
    // Who stops early leaves no thread behind, which the scope would wait for; neither does who fails.
    batches().ahead(usize::MAX, |steps| steps.next_step().map(|_| ())).unwrap();
    let error = batches().ahead(usize::MAX, |_| Err::<(), _>(lowrank::Error::Usage("enough".into())));
    assert_eq!(error.unwrap_err().to_string(), "enough");
}

#[test]
fn a_batch_that_cannot_be_made_is_the_error_of_its_own_step() {
    let Some(folder) = class_folders(false) else { return };
    let mut data = dataset(folder.path(), SHAPE);
    fs::remove_file(folder.path().join("bee/0.jpg")).unwrap();
    let batches = Batches::new(&data, BatchPlan::in_order(1), Position::default()).unwrap();
    let result = batches.ahead(4, |steps| {
        steps.next_step()?;
        steps.next_step()?;
        let error = steps.next_step().unwrap_err().to_string();
        assert!(error.contains("bee/0.jpg"), "{error}");
        assert!(steps.next_step().is_err());
        Ok(())
    });
    result.unwrap();
    data.processor.size = None;
    let text = data.gather(&[0, 1], 0, None).unwrap_err().to_string();
    assert!(text.contains("A.PNG") && text.contains("14 × 11") && text.contains("13 × 9"), "{text}");
}

#[test]
fn what_does_not_decode_is_counted_and_named() {
    let Some(folder) = class_folders(true) else { return };
    let data = dataset(folder.path(), SHAPE);
    assert_eq!((data.len(), data.skipped()), (3, 1));
    assert!(data.skipped_because().unwrap().contains("bee/1.png"));
    let examples = ImageExamples::folder(folder.path(), None).unwrap();
    let error = ImageDataset::new(examples, ImageProcessor::square(6), SHAPE, true).unwrap_err();
    assert!(error.to_string().contains("bee/1.png"), "{error}");
}

#[test]
fn images_without_classes_are_all_that_lie_below() {
    let Some(folder) = class_folders(false) else { return };
    fs::remove_file(folder.path().join("README")).unwrap();
    let examples = ImageExamples::unlabelled(folder.path()).unwrap();
    assert_eq!((examples.len(), examples.label(0)), (4, None));
    let one = ImageExamples::unlabelled(folder.path().join("bee/0.jpg")).unwrap();
    assert_eq!(one.len(), 1);
    fs::write(folder.path().join("README"), "").unwrap();
    let examples = ImageExamples::unlabelled(folder.path()).unwrap();
    assert!(examples.strays[0].to_string().contains("README: not an image"));
    assert!(reason(ImageExamples::unlabelled(folder.path().join("README"))).contains("not an image"));
}

#[test]
fn labels_are_numbered_as_a_model_has_them() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data_batch_1.bin");
    write_cifar(&path, &[6, 9, 0]);
    let mut examples = ImageExamples::cifar10(&path, Part::Train).unwrap();
    let mut turned = examples.labels.clone();
    turned.reverse();
    examples.relabel(&turned).unwrap();
    assert_eq!([0, 1, 2].map(|index| examples.label(index).unwrap()), [3, 0, 9]);
    let error = examples.relabel(&turned[1..]).unwrap_err().to_string();
    assert!(error.contains("image 2: its label \"truck\""), "{error}");
}

#[test]
fn the_published_sets_are_read() {
    if let Some(folder) = shared("data/cifar10") {
        let train = ImageExamples::cifar10(&folder, Part::Train).unwrap();
        let test = ImageExamples::cifar10(&folder, Part::Test).unwrap();
        assert_eq!((train.len(), test.len()), (8000, 2000));
        let names = fs::read_to_string(folder.join("batches.meta.txt")).unwrap();
        assert_eq!(names.split_whitespace().collect::<Vec<_>>(), train.labels);
    }
    if let Some(folder) = shared("data/mnist") {
        let test = ImageExamples::mnist(&folder, Part::Test).unwrap();
        assert_eq!((test.len(), test.label(0), test.label(9999)), (10_000, Some(7), Some(6)));
        let picture = test.picture(0).unwrap();
        assert_eq!((picture.width(), picture.height()), (28, 28));
        // The first test image is a 7: ink in its upper bar, none in the corners.
        assert!(picture.pixels()[(28 * 8 + 12) * 3] > 100 && picture.pixels()[0] == 0);
    }
}
