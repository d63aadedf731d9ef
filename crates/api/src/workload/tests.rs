use super::*;

fn sample() -> Workload {
    Workload {
        version: 1,
        name: "demo".into(),
        isolation: Isolation::Microvm,
        image: Image {
            source: String::new(),
            manifest: format_digest(&[1; 32]),
            layers: vec![Layer { blob: format_digest(&[2; 32]), root_hash: hex::encode([3; 32]), data_blocks: 9, key: None }],
        },
        process: Process {
            args: vec!["python3".into(), "/train.py".into()],
            env: BTreeMap::from([("PATH".into(), "/usr/bin".into())]),
            cwd: "/".into(),
            user: "65534".into(),
        },
        resources: Resources { cpus: 1, memory_mib: 512, scratch_mib: 64 },
        assets: vec![Asset { name: "data".into(), digest: format_digest(&[4; 32]), size_bytes: 10, path: "/data/data".into() }],
        network: None,
        output_path: "/out".into(),
        ttl_s: 600,
        tenant_key: hex::encode([5; 32]),
    }
}

#[test]
fn canonical_bytes_round_trip_and_no_other_spelling_is_accepted() {
    let bytes = sample().to_canonical();
    assert_eq!(Workload::from_canonical(&bytes).unwrap(), sample());
    let spaced = String::from_utf8(bytes.clone()).unwrap().replacen(':', ": ", 1);
    assert!(matches!(Workload::from_canonical(spaced.as_bytes()), Err(WorkloadError::Canonical(CanonicalError::NotCanonical))));
    let pretty = serde_json::to_vec(&sample()).unwrap();
    assert_ne!(pretty, bytes, "declaration order is not the canonical order, or this test proves nothing");
    assert!(Workload::from_canonical(&pretty).is_err());
}

#[test]
fn a_workload_without_a_network_has_the_bytes_that_it_always_had() {
    let text = String::from_utf8(sample().to_canonical()).unwrap();
    assert!(!text.contains("network"), "{text}");
    let with_null = text.replacen("\"output_path\"", "\"network\":null,\"output_path\"", 1);
    assert!(Workload::from_canonical(with_null.as_bytes()).is_err());
}

#[test]
fn the_network_is_a_part_of_the_digest_and_has_one_way_of_being_written() {
    let with = |egress: &[&str], publish: &[&str]| {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Workload { network: Some(Network { egress: texts(egress), publish: texts(publish), ..Network::default() }), ..sample() }
    };
    let good = with(&["203.0.113.0/24:tcp/443", "*.example.org:tcp/443"], &["8080:tcp/80"]);
    assert_eq!(Workload::from_canonical(&good.to_canonical()).unwrap(), good);
    let digests = [sample().digest(), good.digest(), with(&[], &[]).digest(), with(&["0.0.0.0/0"], &[]).digest()];
    assert!(digests.iter().enumerate().all(|(index, digest)| !digests[..index].contains(digest)));
    let cases: [(&[&str], &[&str], &str); 7] = [
        (&["203.0.113.1"], &[], "network.egress[0]: must be written as \"203.0.113.1/32\""),
        (&["::/0", "Example.org"], &[], "network.egress[1]: must be written as \"example.org\""),
        (&["10.0.0.0/8"], &[], "network: 10.0.0.0/8 lies in 10.0.0.0/8, which no instance may reach: private networks"),
        (&["a b"], &[], "network.egress[0]: "),
        (&[], &["80"], "network.publish[0]: "),
        (&[], &["80:tcp/1", "80:tcp/2"], "network: port 80 of the node is published twice"),
        (&["1.1.1.1/32"; 257], &[], "network.egress: at most 256"),
    ];
    for (egress, publish, expected) in cases {
        let error = with(egress, publish).check().unwrap_err().to_string();
        assert!(error.starts_with(&format!("workload field {expected}")), "{error}");
    }
}

#[test]
fn keys_of_layers_are_part_of_the_digest_and_absent_ones_change_nothing() {
    let plain = sample();
    let text = String::from_utf8(plain.to_canonical()).unwrap();
    assert!(!text.contains("key\":null") && !text.contains("\"key\""), "{text}");
    let mut encrypted = sample();
    encrypted.image.layers[0].key = Some("layer-00".into());
    assert_eq!(Workload::from_canonical(&encrypted.to_canonical()).unwrap(), encrypted);
    assert_ne!(encrypted.digest(), plain.digest());
    let spelled_out = text.replacen("\"root_hash\"", "\"key\":null,\"root_hash\"", 1);
    assert!(Workload::from_canonical(spelled_out.as_bytes()).is_err());
}

#[test]
fn refuses_keys_of_layers_that_nobody_could_use_rightly() {
    let refused = |break_it: fn(&mut Workload)| {
        let mut workload = sample();
        workload.image.layers = (0..49).map(|_| workload.image.layers[0].clone()).collect();
        workload.image.layers[3].key = Some("layer-3".into());
        workload.check().unwrap();
        break_it(&mut workload);
        match workload.check() {
            Err(WorkloadError::Field { field, .. }) => field,
            Ok(()) | Err(WorkloadError::Canonical(_)) => panic!("accepted"),
        }
    };
    assert_eq!(refused(|w| w.image.layers[3].key = Some("../x".into())), "image.layers[3].key");
    assert_eq!(refused(|w| w.image.layers[5].key = Some("layer-3".into())), "image.layers[5].key");
    assert_eq!(refused(|w| w.image.layers[3].key = Some("data".into())), "image.layers[3].key");
    for level in [Isolation::Container, Isolation::Sandbox] {
        let mut workload = sample();
        workload.isolation = level;
        workload.check().unwrap();
        workload.image.layers[0].key = Some("layer-0".into());
        let problem = workload.check().unwrap_err().to_string();
        assert!(problem.contains("image.layers[0].key") && problem.contains(level.as_str()), "{problem}");
    }
    let all = |w: &mut Workload| {
        w.image.layers.iter_mut().enumerate().for_each(|(i, layer)| layer.key = Some(format!("layer-{i}")));
    };
    assert_eq!(refused(all), "image.layers");
}

#[test]
fn names_the_field_that_breaks_its_rule() {
    type Break = fn(&mut Workload);
    let cases: [(&str, Break); 12] = [
        ("version", |w| w.version = 2),
        ("image.manifest", |w| w.image.manifest = "sha256:zz".into()),
        ("image.layers", |w| w.image.layers.clear()),
        ("image.layers[0].root_hash", |w| w.image.layers[0].root_hash = "A".repeat(64)),
        ("process.args", |w| w.process.args.clear()),
        ("process", |w| w.process.args.push("\0".into())),
        ("process.cwd", |w| w.process.cwd = "/a/../b".into()),
        ("resources.memory_mib", |w| w.resources.memory_mib = 1),
        ("assets[0].name", |w| w.assets[0].name = "../x".into()),
        ("assets[0].path", |w| w.assets[0].path = "/".into()),
        ("output_path", |w| w.output_path = "out".into()),
        ("tenant_key", |w| w.tenant_key = "00".into()),
    ];
    for (expected, break_it) in cases {
        let mut workload = sample();
        break_it(&mut workload);
        match workload.check() {
            Err(WorkloadError::Field { field, .. }) => assert_eq!(field, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
}
