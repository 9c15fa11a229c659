"""The canonical form of addresses, and which are refused in every spelling."""

from __future__ import annotations

import pytest

from switcher.domain.addresses import check_address, place_of
from switcher.domain.errors import BadRequest

# Each means an address that must not be contacted, or is nothing that can be contacted.
TRICKS = [
    # The metadata service of most clouds.
    "http://169.254.169.254",
    "169.254.169.254",
    "http://169.254.169.254/latest/meta-data",
    "https://169.254.169.254",
    "http://169.254.169.254:80",
    "HTTP://169.254.169.254",
    "http://169.254.169.254.",
    "http://2852039166",
    "http://2852039166.",
    "http://0xa9fea9fe",
    "http://0XA9FEA9FE",
    "http://0xa9.0xfe.0xa9.0xfe",
    "http://0251.0376.0251.0376",
    "http://00251.00376.00251.00376",
    "http://025177524776",
    "http://169.254.43518",
    "http://169.16689662",
    "http://0xa9.254.0251.0xfe",
    "http://169.0xfea9fe",
    "http://%31%36%39.254.169.254",
    "http://169%2e254%2e169%2e254",
    "http://１６９．２５４．１６９．２５４",
    "http://169。254。169。254",
    "http://①⑥⑨.②⑤④.①⑥⑨.②⑤④",
    "http://𝟏𝟔𝟗.𝟐𝟓𝟒.𝟏𝟔𝟗.𝟐𝟓𝟒",
    "http://１６９.254.１６９.254",
    "http://[::ffff:169.254.169.254]",
    "http://[::ffff:a9fe:a9fe]",
    "http://[0:0:0:0:0:ffff:a9fe:a9fe]",
    "http://[::FFFF:A9FE:A9FE]:11434",
    "http://[::169.254.169.254]",
    "http://[::ffff:0:169.254.169.254]",
    "http://[64:ff9b::169.254.169.254]",
    "http://[64:ff9b::a9fe:a9fe]",
    "http://[64:ff9b:1::a9fe:a9fe]",
    "http://[2002:a9fe:a9fe::]",
    "http://[2002:a9fe:a9fe::1]:11434",
    "http://[fd12::5efe:169.254.169.254]",
    "http://[fd12::200:5efe:a9fe:a9fe]",
    "http://[2001:0:4136:e378:8000:63bf:5601:5601]",
    # Other link-local and metadata addresses.
    "http://169.254.170.2",
    "http://169.254.0.23",
    "http://[fe80::a9fe:a9fe]",
    "http://[fe80::1%25eth0]",
    "http://[fe80::1%eth0]",
    "http://[::1%25lo]",
    "http://[fd00:ec2::254]",
    "http://[fd00:0ec2:0:0:0:0:0:254]",
    "http://[fd20:ce::254]",
    "http://[fd00:42::42]",
    "http://100.100.100.200",
    "http://1684301000",
    "http://192.0.0.192",
    "http://168.63.129.16",
    # Addresses of no machine, or of many.
    "http://0.1.2.3",
    "http://224.0.0.1",
    "http://239.255.255.250:1900",
    "http://[ff02::1]",
    "http://255.255.255.255",
    "http://4294967295",
    "http://240.0.0.1",
    "http://[2002:7f00:1::]",
    "http://[2002:0a00:0001::]",
    "http://[64:ff9b::127.0.0.1]",
    # Ports of other services.
    "http://10.0.0.21:22",
    "http://10.0.0.21:0022",
    "http://10.0.0.21:25",
    "http://127.0.0.1:2375",
    "http://127.0.0.1:6379",
    "https://127.0.0.1:6443",
    "http://127.0.0.1:0",
    # Texts that parsers read differently.
    "http://127.0.0.1\\@169.254.169.254",
    "http://10.0.0.21@169.254.169.254",
    "http://10.0.0.21:11434@169.254.169.254",
    "http://169.254.169.254#@10.0.0.21",
    "http://169.254.169.254?.10.0.0.21",
    "http://10.0.0.21:80:22",
    "http://[169.254.169.254]",
    "http://[::ffff:169.254.169.254",
    "http://1.2.3.4.5",
    "http://0xa9fea9feff",
    "http://256.1.1.1",
    "file://169.254.169.254/x",
    "gopher://127.0.0.1:6379/x",
]


@pytest.mark.parametrize("text", TRICKS)
def test_what_must_not_be_contacted_cannot_be_saved(text: str) -> None:
    with pytest.raises(BadRequest):
        check_address(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.21", "http://10.0.0.21:11434"),
        ("gpu-1", "http://gpu-1:11434"),
        ("GPU_1.Example.:8080", "http://gpu_1.example:8080"),
        ("http://gpu-1", "http://gpu-1"),
        ("http://gpu-1:80/", "http://gpu-1"),
        ("https://gpu-1:443", "https://gpu-1"),
        ("HTTPS://GPU-1/Ollama/", "https://gpu-1/Ollama"),
        ("http://localhost:11434//", "http://localhost:11434"),
        ("http://0x7f.1:11434", "http://127.0.0.1:11434"),
        ("http://[::FFFF:10.0.0.21]:11434", "http://10.0.0.21:11434"),
        ("http://[0:0::1]:11434", "http://[::1]:11434"),
        ("::1", "http://[::1]:11434"),
        ("http://0.0.0.0:11434", "http://127.0.0.1:11434"),
        ("http://[::]:11434", "http://[::1]:11434"),
        ("http://bücher.example", "http://xn--bcher-kva.example"),
    ],
)
def test_an_address_is_saved_in_its_canonical_form(text: str, address: str) -> None:
    assert check_address(text) == address
    assert check_address(address) == address


@pytest.mark.parametrize(
    "text",
    [
        "http://localhost:8102/",
        "http://LOCALHOST.:8102",
        "http://0.0.0.0:8102",
        "http://[::1]:8102",
        "[::]:8102",
        "http://127.9.9.9:8102",
        "http://2130706433:8102",
        "http://[::ffff:127.0.0.1]:8102",
        "http://0:8102",
        "127.0.0.1:8102",
    ],
)
def test_all_names_of_this_machine_are_one_place(text: str) -> None:
    assert place_of(text) == place_of("http://127.0.0.1:8102")


@pytest.mark.parametrize(
    "text", ["http://127.0.0.1:8103", "http://127.0.0.1:8102/ollama", "http://10.0.0.1:8102"]
)
def test_another_port_path_or_machine_is_another_place(text: str) -> None:
    assert place_of(text) != place_of("http://127.0.0.1:8102")


def test_the_default_port_may_be_left_out() -> None:
    assert place_of("https://gpu-1.example:443/") == place_of("https://GPU-1.example")


def test_an_address_of_an_earlier_release_is_still_compared() -> None:
    assert place_of("http://10.0.0.21:22") == place_of("http://10.0.0.21:22")
    assert place_of("http://10.0.0.21:22") != place_of("http://10.0.0.22:22")


def test_the_user_belongs_into_its_own_field() -> None:
    with pytest.raises(BadRequest, match="their own fields"):
        check_address("http://user:secret@gpu-1:11434")
