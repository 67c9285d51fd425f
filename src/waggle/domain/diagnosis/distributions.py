# SPDX-License-Identifier: Apache-2.0
"""Distributions of PyPI whose modules have another name. Data, and pure."""

from __future__ import annotations

from typing import Final

SYSTEM_PACKAGE_OF: Final = {"tkinter": "python3-tk", "_tkinter": "python3-tk", "apt": "python3-apt"}
"""Modules that come with the distribution's Python alone: Debian's package."""
_DISTRIBUTION_OF: Final = {
    "Bio": "biopython",
    "Crypto": "pycryptodome",
    "Cryptodome": "pycryptodomex",
    "Levenshtein": "levenshtein",
    "MySQLdb": "mysqlclient",
    "OpenSSL": "pyopenssl",
    "PIL": "pillow",
    "Xlib": "python-xlib",
    "allauth": "django-allauth",
    "attr": "attrs",
    "barcode": "python-barcode",
    "bs4": "beautifulsoup4",
    "bson": "pymongo",
    "camelot": "camelot-py",
    "corsheaders": "django-cors-headers",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "discord": "discord.py",
    "distutils": "setuptools",
    "dns": "dnspython",
    "docx": "python-docx",
    "dotenv": "python-dotenv",
    "engineio": "python-engineio",
    "environ": "django-environ",
    "faiss": "faiss-cpu",
    "fitz": "pymupdf",
    "flask_sqlalchemy": "flask-sqlalchemy",
    "genai": "google-genai",
    "git": "gitpython",
    "github": "pygithub",
    "gitlab": "python-gitlab",
    "google.cloud.bigquery": "google-cloud-bigquery",
    "google.cloud.storage": "google-cloud-storage",
    "google.genai": "google-genai",
    "google.generativeai": "google-generativeai",
    "google.protobuf": "protobuf",
    "googleapiclient": "google-api-python-client",
    "gridfs": "pymongo",
    "grpc": "grpcio",
    "haystack": "haystack-ai",
    "imblearn": "imbalanced-learn",
    "jose": "python-jose",
    "jwt": "pyjwt",
    "kafka": "kafka-python",
    "ldap": "python-ldap",
    "llama_cpp": "llama-cpp-python",
    "magic": "python-magic",
    "mpl_toolkits": "matplotlib",
    "multipart": "python-multipart",
    "nacl": "pynacl",
    "osgeo": "gdal",
    "pandas_ta": "pandas-ta",
    "pkg_resources": "setuptools<81",
    "pptx": "python-pptx",
    "psycopg2": "psycopg2-binary",
    "pythoncom": "pywin32",
    "pywt": "PyWavelets",
    "rest_framework": "djangorestframework",
    "ruamel": "ruamel.yaml",
    "serial": "pyserial",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "slugify": "python-slugify",
    "snappy": "python-snappy",
    "socketio": "python-socketio",
    "socks": "pysocks",
    "speech_recognition": "SpeechRecognition",
    "sqlalchemy_utils": "sqlalchemy-utils",
    "tabula": "tabula-py",
    "telegram": "python-telegram-bot",
    "umap": "umap-learn",
    "usb": "pyusb",
    "websocket": "websocket-client",
    "whois": "python-whois",
    "wx": "wxPython",
    "yaml": "pyyaml",
    "youtube_dl": "yt-dlp",
    "zmq": "pyzmq",
}


def distribution_of(module: str) -> str | None:
    """The distribution that has a module, by its dotted name, where the names differ."""
    names = module.split(".")
    for length in range(len(names), 0, -1):
        if found := _DISTRIBUTION_OF.get(".".join(names[:length])):
            return found
    return None
