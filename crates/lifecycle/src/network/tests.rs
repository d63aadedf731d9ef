use super::*;

#[test]
fn reads_rules_as_people_write_them_and_writes_them_back() {
    for (text, back) in [
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("203.0.113.7", "203.0.113.7/32"),
        ("203.0.113.0/24:tcp/443", "203.0.113.0/24:tcp/443"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("[2001:db8::1]:udp/6000-6010", "[2001:db8::1/128]:udp/6000-6010"),
        ("Example.ORG:tcp/443", "example.org:tcp/443"),
        ("*.example.org", "*.example.org"),
    ] {
        let rule: Egress = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(rule.to_string(), back, "{text}");
        assert_eq!(back.parse::<Egress>().unwrap(), rule, "{back}");
    }
    let published: Published = "8080:tcp/80".parse().unwrap();
    assert_eq!(published, Published { protocol: Protocol::Tcp, node_port: 8080, port: 80 });
    assert_eq!(published.to_string(), "8080:tcp/80");
}

#[test]
fn refuses_what_is_not_a_rule() {
    let hostile = [
        "",
        "/",
        "1.2.3.4/33",
        "1.2.3.4/-1",
        "1.2.3.4/+8",
        "1.2.3.4/08",
        "1.2.3/8",
        "01.2.3.4",
        "::/129",
        "1.2.3.0/24:tcp",
        "1.2.3.4:tcp/0",
        "1.2.3.4:tcp/65536",
        "1.2.3.4:tcp/9-8",
        "1.2.3.4:icmp/1",
        "1.2.3.4:tcp/1;accept",
        "1.2.3.4 }\n",
        "[::1",
        "[2001:db8::]x",
        "[1.2.3.4]:",
        "::ffff:10.0.0.1/128",
        "1.2.3.4/24",
        "example.org:443",
        "example.org:tcp/443:udp/1",
        "https://example.org",
        "0x7f.1",
        "localhost",
    ];
    for text in hostile {
        assert!(text.parse::<Egress>().is_err(), "{text:?}");
    }
    for text in ["", "80", "8080:80", "0:tcp/80", "8080:tcp/80-81", "8080:tcp/", "8080:icmp/1", " 8080:tcp/80", "65536:tcp/1"] {
        assert!(text.parse::<Published>().is_err(), "{text:?}");
    }
    let error = "1.2.3.4/24".parse::<Cidr>().unwrap_err();
    assert_eq!(error.to_string(), r#""1.2.3.4/24" has bits beyond its length; 1.2.3.0/24 is the range that it lies in"#);
}

#[test]
fn a_rule_for_a_forbidden_range_is_refused_and_one_around_it_is_not() {
    let allowing = |text: &str| Policy { egress: vec![text.parse().unwrap()], ..Policy::default() }.check();
    for text in ["10.1.0.0/16", "169.254.169.254", "fd00:ec2::254", "168.63.129.16", "127.0.0.1", "2002:a00::/24"] {
        assert!(matches!(allowing(text), Err(PolicyError::Forbidden(..))), "{text}");
    }
    for text in ["0.0.0.0/0", "::/0", "8.0.0.0/7", "2001:db8::/32", "example.org"] {
        assert_eq!(allowing(text), Ok(()), "{text}");
    }
}

#[test]
fn limits_are_named() {
    let rule = |number: usize| format!("1.1.{}.{}", number / 256, number % 256).parse().unwrap();
    let many = Policy { egress: (0..=MAX_RULES).map(rule).collect(), ..Policy::default() };
    assert_eq!(many.check().unwrap_err().to_string(), "257 egress rules, where 256 are the limit");
    let named = |number: usize| format!("h{number}.example.org").parse().unwrap();
    let names = Policy { egress: (0..=MAX_NAMES).map(named).collect(), ..Policy::default() };
    assert_eq!(names.check().unwrap_err().to_string(), "65 egress rules with names, where 64 are the limit");
    let again = Policy { egress: vec![rule(1), rule(1)], ..Policy::default() };
    assert_eq!(again.check().unwrap_err().to_string(), "the rule 1.1.0.1/32 is there twice");
    let port = Published { protocol: Protocol::Tcp, node_port: 8080, port: 80 };
    let twice = Policy { published: vec![port, Published { port: 81, ..port }], ..Policy::default() };
    assert_eq!(twice.check(), Err(PolicyError::PublishedTwice(8080)));
    let both = Policy { published: vec![port, Published { protocol: Protocol::Udp, ..port }], ..Policy::default() };
    assert_eq!(both.check(), Ok(()));
}
