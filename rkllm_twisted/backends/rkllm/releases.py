"""The releases of the vendor, and the library files in them.

Read from the trees of the vendor's repository, airockchip/rknn-llm: the library files are ordinary git blobs there. The
commit is that of the tag ``release-v`` and the version; the beta releases of 1.0 have no tag. Of 1.3.1 only the SHA-256
of the file for Linux on aarch64 is known, from third parties that pin it.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Release:
    """One release.

    Attributes:
        version: As in the tag.
        family: The key of its family; None is older than what can be used.
        commit: Of the vendor's repository.
        blobs: The git blob id of ``librkllmrt.so`` for each platform.
        sha256: The SHA-256 of it, where the blob id is not known.
    """

    version: str
    family: str | None
    commit: str
    blobs: dict[str, str]
    sha256: dict[str, str] = field(default_factory=dict)


RELEASES = (
    Release(
        "1.0.0-beta",
        None,
        "b81deb2077de1820285ba6ff2c33e11a700651b9",
        {
            "linux-aarch64": "53e00993ebbc7797df09673f806479e8642db946",
            "android-arm64-v8a": "0b93495ab81d86d61dfbbb6a6481d7881cc5a557",
        },
    ),
    Release(
        "1.0.1",
        None,
        "d59d017d4c3a8055d659d9eaa246296282053988",
        {
            "linux-aarch64": "a026cbe60905af0ad6c07dfa2fcc339dd4b9fa10",
            "android-arm64-v8a": "ba8f0763753069586541993e4ed66a68f9596ce4",
        },
    ),
    Release(
        "1.0.2-beta",
        None,
        "92fce84bdd248cd631a0b7694ca542b1b4fd12ad",
        {
            "linux-aarch64": "c913ab1569dfed48916c05fcd898f8d3f9dafe04",
            "android-arm64-v8a": "2f7e7e97447cf9515d92e94f456ae7ec5795dda8",
        },
    ),
    Release(
        "1.1.0",
        "1.1",
        "71773f050acf27261b05c076bf7e9a22f1bfb18c",
        {
            "linux-aarch64": "66dfdc7c25cdca9ccf9930798118e17abf7592ff",
            "android-arm64-v8a": "9b5ff7f87f5f49655428de4f3dbef613d5a6b6c5",
        },
    ),
    Release(
        "1.1.1",
        "1.1",
        "61edffefc13e4a7ae5496f48a3e82945c345a379",
        {
            "linux-aarch64": "bfca051375287d0f5aa754a7b8681b4ede52e259",
            "android-arm64-v8a": "9cb37c73de4f51650f61ad3427bdf11c558ae499",
        },
    ),
    Release(
        "1.1.2",
        "1.1",
        "71c79c3c0fbcb32982aea2ef2b4e9807b73ec91b",
        {
            "linux-aarch64": "e8f4afc38c7394beeff83003dbc772412f649a44",
            "android-arm64-v8a": "87b6735ebb37a88616e559c81ce7700ae26d440b",
        },
    ),
    Release(
        "1.1.3",
        "1.1",
        "1a502afb52bddc49c2f4e9c0b025b7ab471467a9",
        {
            "linux-aarch64": "68e79327e82f675413956be615f48c62ccd0f16e",
            "android-arm64-v8a": "ecc05306766660bd79a708200948f3d009efe4ba",
        },
    ),
    Release(
        "1.1.4",
        "1.1",
        "8623edd0559a07e7127876d685f2b7ca8b83590c",
        {
            "linux-aarch64": "3bb8cb6172c4c06e1c622c8f8c579888378784f4",
            "android-arm64-v8a": "3f173bdf016d346690d2ccad52480efc53234b3e",
        },
    ),
    Release(
        "1.2.0",
        "1.2.0",
        "cb5b341364311065fd19eddd631a79a9f0c5afe1",
        {
            "linux-aarch64": "d45ee9b8dcb9ef27d7dd875ce3be3d5e6dfb654d",
            "android-arm64-v8a": "d61b58e295a1e88f3c690df316bfd83eec4bd16d",
        },
    ),
    Release(
        "1.2.1b1",
        "1.2.1b1",
        "d8a9f6a9cce06922bf61ea9151d72fbf55dd55bb",
        {
            "linux-aarch64": "db041c01bba5e0e8f624bb2ff50d48825dde1bfc",
            "android-arm64-v8a": "08dc9db1a201c0a87f596c7667d5dc98ca16a7d9",
        },
    ),
    Release(
        "1.2.1",
        "1.2.1",
        "d546a0f975d62469cf1306f98103c737ff933506",
        {
            "linux-aarch64": "6b9439d59f2fe4bb8ef5ee2b09c102f1bf993da9",
            "linux-armhf": "7025f35825e04ad75d839d10392e3c02cc88e57a",
            "android-arm64-v8a": "4464ccb4f167d72dbd61fe1c92b44976ed45dda5",
            "android-armeabi-v7a": "232dc7a18d14dd0c47fd9f6f3b8581e07cdddc92",
        },
    ),
    Release(
        "1.2.2",
        "1.2.1",
        "04b51a3c10bf4416f3815b630a35fc35e20a38d1",
        {
            "linux-aarch64": "8ed9cca16f8d5ad8f7cdd7d393de6561182b3395",
            "linux-armhf": "d5953fdad6e60521f1dc696f6d638425c93ba08d",
            "android-arm64-v8a": "471639b60c2c7fdcb2c8dffd553acc8548d10c2e",
            "android-armeabi-v7a": "b7310ed2a1c1c054adf82c8883d9b339b5e7d1a0",
        },
    ),
    Release(
        "1.2.3",
        "1.2.1",
        "f7df8e5de9b40dc7aaa66194cf14d4895aaf159a",
        {
            "linux-aarch64": "0084abc34ab43359cfa9fd5d4c92ece34127dbd0",
            "linux-armhf": "fe1ca6849603a770c54f82d26b826a120c79a01a",
            "android-arm64-v8a": "348986e7a8170ddb2c3b43e99257d2e64d9699f6",
            "android-armeabi-v7a": "d53acaf083edd95a1bac3513cc5c5241c1cc272c",
        },
    ),
    Release(
        "1.3.0",
        "1.3",
        "878f9361fd3afa7e167b7079918918f78d2c1c2a",
        {
            "linux-aarch64": "34167b32f99cb7ab19e21fb579fb750d96b878f1",
            "linux-armhf": "17c9063b46168c4e7d093d6fedb097874f92d076",
            "android-arm64-v8a": "5f0bd5f39bd05263a59786733687d29e66982aa6",
            "android-armeabi-v7a": "f96c82ba91731e14905d95bda44555b191dbe996",
        },
    ),
    Release(
        "1.3.1",
        "1.3.1",
        "f7390530443bf84f0394255a449d7cbe81e69d1c",
        {},
        {"linux-aarch64": "f25e9b099db08aaacd0a3ac62b4697d3951d6ae61ae41ea09f6702cfa89eb32c"},
    ),
)
"""Every release, the oldest first."""
