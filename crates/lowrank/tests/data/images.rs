use lowrank::data::image::{Filter, ImageProcessor, Picture, Size, decode, read_picture, resize};
use lowrank::hub::{Checkpoint, to_tensor};
use serde_json::{Value, json};

use crate::fixtures;

#[test]
fn pictures_are_made_ready_as_transformers_does() {
    let Some(folder) = fixtures("images") else { return };
    let cases: Vec<Value> =
        serde_json::from_str(&std::fs::read_to_string(folder.join("images.json")).unwrap()).unwrap();
    let expected = Checkpoint::open_file(folder.join("images.safetensors")).unwrap();
    assert!(cases.len() > 50);
    for case in cases {
        let [name, file, key] = ["processor", "file", "key"].map(|key| case[key].as_str().unwrap());
        let processor = ImageProcessor::read(folder.join("processors").join(name)).unwrap();
        let picture = processor.shape(&read_picture(folder.join(file)).unwrap()).unwrap();
        assert_eq!(json!([3, picture.height(), picture.width()]), case["shape"], "{key}");
        if let Some(size) = processor.output_size() {
            assert_eq!(size, (picture.height(), picture.width()), "{key}");
        }
        let mut values = Vec::new();
        processor.write_values(&picture, &mut values);
        let expected = to_tensor(key, &expected.get(key).unwrap()).unwrap().to_f32_vec();
        assert_eq!(values.len(), expected.len());
        let furthest = values.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // libjpeg rounds its transform and its colours otherwise: two bytes, of which one is 2/255.
        let allowed = if file.ends_with("jpg") { 4.5 / 255.0 } else { 0.0 };
        assert!(furthest <= allowed, "{key}: {furthest} away");
    }
}

#[test]
fn a_configuration_is_read_as_it_is_written() {
    let mut processor = ImageProcessor::square(12);
    assert_eq!(ImageProcessor::from_json(&processor.to_json()).unwrap(), processor);
    processor.size = Some(Size::ShortestEdge(7));
    processor.crop = Some((5, 6));
    processor.filter = Filter::Lanczos;
    processor.normal = Some([(0.25, 0.5), (0.125, 1.0), (0.5, 2.0)]);
    assert_eq!(ImageProcessor::from_json(&processor.to_json()).unwrap(), processor);
    processor.normal = None;
    (processor.scale, processor.size) = (None, None);
    assert_eq!(ImageProcessor::from_json(&processor.to_json()).unwrap(), processor);
    // As Transformers 4.20 and before wrote it.
    let old = json!({"feature_extractor_type": "ViTFeatureExtractor", "size": 224, "do_normalize": true,
        "do_resize": true, "resample": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]});
    assert_eq!(ImageProcessor::from_json(&old).unwrap(), ImageProcessor::square(224));
}

#[test]
fn a_configuration_that_is_wrong_says_where() {
    let cases = [
        (json!([]), "not a JSON object"),
        (
            json!({"image_processor_type": "CLIPImageProcessor"}),
            "CLIPImageProcessor\"; the known ones are ViT",
        ),
        (json!({"resample": 7}), "resample is 7"),
        (json!({"resample": "bilinear"}), "resample is \"bilinear\""),
        (json!({"size": 0}), "size has the side 0"),
        (json!({"size": {"height": 9, "width": -1}}), "size has the side -1"),
        (json!({"size": {"height": 1e9, "width": 3}}), "size has the side 1000000000"),
        (json!({"size": {"longest_edge": 3}}), "height and width, or shortest_edge"),
        (json!({"size": [1, 2, 3]}), "a height and a width"),
        (json!({"do_center_crop": true}), "no crop_size"),
        (json!({"do_resize": 1}), "do_resize is 1"),
        (json!({"image_mean": [0.5, 0.5]}), "image_mean is [0.5,0.5]"),
        (json!({"image_std": [0.5, 0, 1]}), "image_std has a 0"),
        (json!({"rescale_factor": "1/255"}), "rescale_factor"),
    ];
    for (config, reason) in cases {
        let error = ImageProcessor::from_json(&config).unwrap_err();
        assert!(error.contains(reason), "{config}: {error}");
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("preprocessor_config.json"), "{").unwrap();
    let error = ImageProcessor::read(folder.path()).unwrap_err().to_string();
    assert!(error.contains("preprocessor_config.json") && error.contains("not JSON"), "{error}");
    let thin = Picture::new(1, 40_000, vec![0; 120_000]).unwrap();
    let error =
        ImageProcessor { size: Some(Size::ShortestEdge(224)), ..ImageProcessor::square(1) }.shape(&thin);
    assert!(error.unwrap_err().contains("shortest edge"));
}

#[test]
fn a_picture_of_one_colour_keeps_it_in_any_size() {
    let picture = Picture::new(5, 3, [200, 17, 255].repeat(15)).unwrap();
    for filter in [Filter::Nearest, Filter::Lanczos, Filter::Bilinear, Filter::Bicubic] {
        for (width, height) in [(1, 1), (5, 3), (4, 9), (64, 1)] {
            let pixels = resize(&picture, width, height, filter);
            assert_eq!(pixels.pixels(), [200, 17, 255].repeat(width * height), "{filter:?}");
        }
    }
}

#[test]
fn a_torn_image_is_an_error_with_its_name() {
    let Some(folder) = fixtures("images") else { return };
    let room = tempfile::tempdir().unwrap();
    for name in ["rgb_wide.png", "palette.png", "photo.jpg", "grey.jpg", "lossless.webp"] {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        decode(&bytes).unwrap();
        for part in [0, 3, 20, bytes.len() / 3, bytes.len() / 2, bytes.len() * 9 / 10] {
            let path = room.path().join(name);
            std::fs::write(&path, &bytes[..part]).unwrap();
            let error = read_picture(&path).map(|picture| picture.width()).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
    let text = decode(b"GIF89a...").unwrap_err();
    assert!(text.contains("PNG, JPEG or WebP"), "{text}");
    assert!(read_picture(room.path().join("nowhere.png")).is_err());
}

#[test]
fn a_header_that_lies_about_the_size_is_not_believed() {
    let Some(folder) = fixtures("images") else { return };
    let mut png = std::fs::read(folder.join("rgb_wide.png")).unwrap();
    png[16..24].copy_from_slice(&[0, 0, 0x40, 0, 0, 0, 0x40, 0]);
    let sum = crc(&png[12..29]);
    png[29..33].copy_from_slice(&sum.to_be_bytes());
    assert!(decode(&png).unwrap_err().contains("16384 × 16384"));
    let mut jpeg = std::fs::read(folder.join("photo.jpg")).unwrap();
    let at = jpeg.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap() + 5;
    jpeg[at..at + 4].copy_from_slice(&[0x3f, 0xff, 0x3f, 0xff]);
    assert!(decode(&jpeg).unwrap_err().contains("16383 × 16383"));
}

#[test]
fn bytes_changed_at_random_stop_nothing() {
    let Some(folder) = fixtures("images") else { return };
    let random = &mut lowrank_kernels::random::Philox::new(3, 0);
    for name in ["rgb_small.png", "palette_key.png", "photo.jpg", "grey.jpg", "lossless.webp"] {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        for _ in 0..300 {
            let mut bytes = bytes.clone();
            for _ in 0..1 + random.below(4) {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] = random.below(256) as u8;
            }
            let _ = decode(&bytes);
        }
    }
}

/// The checksum of a PNG's chunk.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 })
    })
}
