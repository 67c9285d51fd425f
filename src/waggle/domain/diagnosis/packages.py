# SPDX-License-Identifier: Apache-2.0
"""The packages of well-known commands, libraries, headers and Python modules. Data, and pure.

Packages are Debian's (trixie), with Alpine's name where that differs, and distributions of PyPI or
npm. `WITHOUT` has alternatives to commands. Used by the rules in `lacking`, `reach` and `said`.
"""

from __future__ import annotations

from typing import Final


def _pairs(text: str) -> dict[str, str]:
    """Return words of the form NAME:PACKAGE as a dictionary."""
    return dict(word.split(":", 1) for word in text.split())


_SAME: Final = (
    "apache2 bc busybox cargo clang-format composer curl ed file flex fzf gdb gfortran gh git "
    "git-lfs gradle haproxy htop iptables jq less lsof lz4 m4 make meson nano nasm nginx nmap "
    "octave openssl pandoc parallel patch perl pipx podman python3 qpdf redis-server rsync rustc "
    "screen sed shellcheck socat sqlite3 strace swig tar tcpdump telnet time tmux traceroute tree "
    "valgrind wget whois xxd zsh"
)
"""Debian's packages that have one command, of the same name."""
_BY_PACKAGE: Final = {
    "7zip": "7z 7zz",
    "autoconf": "autoconf autoreconf",
    "automake": "automake aclocal",
    "bind9-dnsutils": "dig nslookup nsupdate",
    "bind9-host": "host",
    "binutils": "ar as ld nm objcopy objdump ranlib readelf strings strip",
    "bison": "bison yacc",
    "bsdextrautils": "col column hexdump look",
    "build-essential": "cc c++ gcc g++",
    "bzip2": "bzip2 bunzip2",
    "chromium": "chromium chromium-browser google-chrome",
    "clang": "clang clang++",
    "cmake": "cmake ctest",
    "cron": "cron crontab",
    "default-jdk-headless": "javac jar jshell jwebserver",
    "default-jre-headless": "java",
    "default-mysql-client": "mysql mysqldump",
    "default-libmysqlclient-dev": "mysql_config",
    "diffutils": "cmp diff diff3 sdiff",
    "docker.io docker-cli": "docker dockerd",
    "dos2unix": "dos2unix unix2dos",
    "expect": "expect unbuffer",
    "fd-find": "fd fdfind",
    "ffmpeg": "ffmpeg ffplay ffprobe",
    "findutils": "find xargs",
    "gawk": "awk gawk",
    "gettext": "msgfmt xgettext",
    "gettext-base": "envsubst gettext",
    "ghostscript": "gs ps2pdf",
    "gnupg": "gpg gpg-agent",
    "gnuplot-nox": "gnuplot",
    "golang-go": "go gofmt",
    "graphviz": "dot neato",
    "imagemagick": "convert identify magick mogrify montage",
    "inotify-tools": "inotifywait inotifywatch",
    "iproute2": "ip ss tc bridge",
    "iputils-ping": "ping",
    "libimage-exiftool-perl": "exiftool",
    "libpq-dev": "pg_config",
    "libreoffice": "libreoffice soffice",
    "libtool": "libtoolize",
    "libxml2-utils": "xmllint",
    "locales": "locale-gen",
    "lua5.4": "lua lua5.4",
    "man-db": "man",
    "maven": "mvn",
    "mercurial": "hg",
    "mount": "mount umount losetup",
    "netcat-openbsd": "nc netcat",
    "net-tools": "arp ifconfig netstat route",
    "ninja-build": "ninja",
    "nodejs": "node nodejs",
    "npm": "npm npx",
    "openssh-client": "scp sftp ssh ssh-add ssh-agent ssh-keygen ssh-keyscan",
    "openssh-server": "sshd",
    "php-cli": "php",
    "pkgconf": "pkg-config pkgconf",
    "poppler-utils": "pdfinfo pdfimages pdftoppm pdftotext",
    "postgresql": "pg_ctl postgres",
    "postgresql-client": "pg_dump pg_isready pg_restore psql",
    "procps": "free pgrep pidwait pkill pmap ps pwdx slabtop sysctl tload top uptime vmstat "
    "w watch",
    "protobuf-compiler": "protoc",
    "psmisc": "fuser killall pstree",
    "python-is-python3": "python",
    "python3-pip": "pip pip3",
    "r-base-core": "R Rscript",
    "redis-tools": "redis-cli",
    "ripgrep": "rg",
    "ruby": "gem irb ruby",
    "subversion": "svn",
    "sudo": "sudo visudo",
    "tcl": "tclsh",
    "tesseract-ocr": "tesseract",
    "texlive-latex-base": "latex pdflatex",
    "texlive-xetex": "xelatex",
    "unrar-free": "unrar",
    "unzip": "unzip zipinfo",
    "util-linux": "flock lscpu lsblk more setsid taskset",
    "vim": "ex vi vim",
    "xvfb": "Xvfb xvfb-run",
    "xz-utils": "lzma unxz xz xzcat",
    "zip": "zip zipnote",
    "zstd": "unzstd zstd zstdcat",
}
PACKAGE_OF: Final = {
    **{name: name for name in _SAME.split()},
    **{command: package for package, names in _BY_PACKAGE.items() for command in names.split()},
}
"""Debian's package by command."""
ALPINE: Final = _pairs("""
bind9-dnsutils:bind-tools bind9-host:bind-tools bsdextrautils:util-linux-misc
build-essential:build-base default-jdk-headless:openjdk21-jdk
default-jre-headless:openjdk21-jre-headless default-libmysqlclient-dev:mariadb-dev
default-mysql-client:mysql-client docker.io:docker fd-find:fd golang-go:go
libimage-exiftool-perl:exiftool ninja-build:samurai php-cli:php protobuf-compiler:protoc
python-is-python3:python3 python3-pip:py3-pip r-base-core:R redis-server:redis redis-tools:redis
rustc:rust xz-utils:xz
""")
"""Alpine's package name, where it differs from Debian's."""

_PYTHON_SAME: Final = (
    "alembic bandit black celery coverage cython fastapi flake8 flask gunicorn httpx hypercorn "
    "ipython isort jupyter jupyter-lab jupyter-notebook mkdocs mypy nbconvert nox pdm pipenv "
    "poetry pre-commit pyinstaller pylint pyright pytest ruff scrapy streamlit tox twine uv "
    "uvicorn virtualenv yamllint yt-dlp"
)
DISTRIBUTION_OF: Final = {
    **{name: name for name in _PYTHON_SAME.split()},
    **_pairs("aws:awscli django-admin:django http:httpie huggingface-cli:huggingface_hub uvx:uv"),
    **dict.fromkeys(("conda", "mamba", "micromamba"), "NAME"),
}
"""The distribution on PyPI by command; NAME stands for the target of another installer."""
_NPM_SAME: Final = (
    "bun concurrently cross-env esbuild eslint http-server jest json-server mocha next nodemon "
    "parcel pm2 pnpm prettier rimraf rollup serve ts-node tsx turbo vite vitest webpack yarn"
)
NPM_PACKAGE_OF: Final = {
    **{name: name for name in _NPM_SAME.split()},
    "ng": "@angular/cli",
    "playwright": "playwright",
    "tsc": "typescript",
    "vue": "@vue/cli",
}
"""The npm package by command."""

WITHOUT: Final = {
    "crontab": "have a job in the background loop with sleep",
    "curl": "have python3 fetch it: python3 -c 'import urllib.request as u; "
    'print(u.urlopen("URL").read().decode())\'',
    "gh": "use git over https, or the web interface through curl",
    "jq": "have python3 do it: python3 -m json.tool FILE",
    "killall": "end a job with read_job and kill",
    "lsof": "read /proc/PID/fd",
    "netstat": "read /proc/net/tcp",
    "pkill": "end a job with read_job and kill",
    "ps": "read /proc (for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done)",
    "ss": "read /proc/net/tcp",
    "systemctl": "start the server itself as a job in the background: there is no systemd",
    "service": "start the server itself as a job in the background: there is no init system",
    "top": "read /proc (for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done)",
    "unzip": "have python3 do it: python3 -m zipfile -e FILE.zip DIRECTORY",
    "wget": "have python3 fetch it: python3 -c 'import urllib.request as u; "
    'u.urlretrieve("URL", "FILE")\'',
    "zip": "have python3 do it: python3 -m zipfile -c FILE.zip PATH",
}
"""The alternative to a command. One that names python3 helps only where the image has python3."""

PACKAGE_OF_LIBRARY: Final = _pairs("""
libasound.so.2:libasound2t64 libatk-1.0.so.0:libatk1.0-0t64
libatk-bridge-2.0.so.0:libatk-bridge2.0-0t64 libatspi.so.0:libatspi2.0-0t64
libbz2.so.1.0:libbz2-1.0 libcairo.so.2:libcairo2 libcrypto.so.3:libssl3t64
libcups.so.2:libcups2t64 libcurl.so.4:libcurl4t64 libdbus-1.so.3:libdbus-1-3 libdrm.so.2:libdrm2
libEGL.so.1:libegl1 libenchant-2.so.2:libenchant-2-2 libexpat.so.1:libexpat1 libffi.so.8:libffi8
libfontconfig.so.1:libfontconfig1 libfreetype.so.6:libfreetype6 libgbm.so.1:libgbm1
libgcc_s.so.1:libgcc-s1 libgdk_pixbuf-2.0.so.0:libgdk-pixbuf-2.0-0 libgeos_c.so.1:libgeos-c1t64
libgfortran.so.5:libgfortran5 libgio-2.0.so.0:libglib2.0-0t64 libGL.so.1:libgl1
libGLESv2.so.2:libgles2 libglib-2.0.so.0:libglib2.0-0t64 libgobject-2.0.so.0:libglib2.0-0t64
libgomp.so.1:libgomp1 libgthread-2.0.so.0:libglib2.0-0t64 libgtk-3.so.0:libgtk-3-0t64
libICE.so.6:libice6 libjpeg.so.62:libjpeg62-turbo liblapack.so.3:liblapack3 liblzma.so.5:liblzma5
libmagic.so.1:libmagic1t64 libmariadb.so.3:libmariadb3 libncurses.so.6:libncurses6
libnspr4.so:libnspr4 libnss3.so:libnss3 libnssutil3.so:libnss3 libodbc.so.2:libodbc2
libopenblas.so.0:libopenblas0 libOpenGL.so.0:libopengl0 libpango-1.0.so.0:libpango-1.0-0
libpangocairo-1.0.so.0:libpangocairo-1.0-0 libpangoft2-1.0.so.0:libpangoft2-1.0-0
libpng16.so.16:libpng16-16t64 libportaudio.so.2:libportaudio2 libpq.so.5:libpq5
libreadline.so.8:libreadline8t64 libSM.so.6:libsm6 libsmime3.so:libnss3
libsndfile.so.1:libsndfile1 libsodium.so.23:libsodium23 libsqlite3.so.0:libsqlite3-0
libssl.so.3:libssl3t64 libstdc++.so.6:libstdc++6 libtiff.so.6:libtiff6 libtinfo.so.6:libtinfo6
libtk8.6.so:libtk8.6 libusb-1.0.so.0:libusb-1.0-0 libuuid.so.1:libuuid1 libX11.so.6:libx11-6
libX11-xcb.so.1:libx11-xcb1 libxcb.so.1:libxcb1 libXcomposite.so.1:libxcomposite1
libXcursor.so.1:libxcursor1 libXdamage.so.1:libxdamage1 libXext.so.6:libxext6
libXfixes.so.3:libxfixes3 libXi.so.6:libxi6 libXinerama.so.1:libxinerama1
libxkbcommon.so.0:libxkbcommon0 libxml2.so.2:libxml2 libXrandr.so.2:libxrandr2
libXrender.so.1:libxrender1 libxslt.so.1:libxslt1.1 libXss.so.1:libxss1 libXtst.so.6:libxtst6
libz.so.1:zlib1g libzbar.so.0:libzbar0t64
""")
"""Debian's package by the name that the dynamic loader looks for."""
PACKAGE_OF_HEADER: Final = _pairs("""
Python.h:python3-dev X11/Xlib.h:libx11-dev alsa/asoundlib.h:libasound2-dev bzlib.h:libbz2-dev
cairo.h:libcairo2-dev curl/curl.h:libcurl4-openssl-dev curses.h:libncurses-dev
expat.h:libexpat1-dev ffi.h:libffi-dev fuse.h:libfuse-dev gmp.h:libgmp-dev
graphviz/cgraph.h:libgraphviz-dev jpeglib.h:libjpeg-dev lber.h:libldap-dev libpq-fe.h:libpq-dev
libxml/parser.h:libxml2-dev libxml/xmlversion.h:libxml2-dev libxslt/xslt.h:libxslt1-dev
lzma.h:liblzma-dev magic.h:libmagic-dev mysql.h:default-libmysqlclient-dev
ncurses.h:libncurses-dev openssl/ssl.h:libssl-dev openssl/opensslv.h:libssl-dev pcap.h:libpcap-dev
png.h:libpng-dev portaudio.h:portaudio19-dev readline/readline.h:libreadline-dev
sasl/sasl.h:libsasl2-dev sndfile.h:libsndfile1-dev sql.h:unixodbc-dev sqlite3.h:libsqlite3-dev
stdio.h:libc6-dev stdlib.h:libc6-dev sys/types.h:libc6-dev systemd/sd-daemon.h:libsystemd-dev
tk.h:tk-dev uuid/uuid.h:uuid-dev yaml.h:libyaml-dev zlib.h:zlib1g-dev zmq.h:libzmq3-dev
""")
"""Debian's package by the name that a C compiler looks for."""
SYSTEM_PACKAGE_OF: Final = {"tkinter": "python3-tk", "_tkinter": "python3-tk", "apt": "python3-apt"}
"""Debian's package by module, for modules that only the distribution's Python has."""

_PYTHON_BEFORE: Final = (
    "barcode dateutil docx dotenv engineio gitlab jose ldap magic multipart pptx slugify snappy "
    "socketio whois"
)
_DISTRIBUTION_OF: Final = {
    module: f"python-{module}" for module in _PYTHON_BEFORE.split()
} | _pairs(
    """
Bio:biopython Crypto:pycryptodome Cryptodome:pycryptodomex Levenshtein:levenshtein
MySQLdb:mysqlclient OpenSSL:pyopenssl PIL:pillow Xlib:python-xlib allauth:django-allauth
attr:attrs bs4:beautifulsoup4 bson:pymongo camelot:camelot-py corsheaders:django-cors-headers
cv2:opencv-python-headless discord:discord.py distutils:setuptools dns:dnspython
environ:django-environ faiss:faiss-cpu fitz:pymupdf genai:google-genai git:gitpython
github:pygithub google.protobuf:protobuf googleapiclient:google-api-python-client gridfs:pymongo
grpc:grpcio haystack:haystack-ai imblearn:imbalanced-learn jwt:pyjwt kafka:kafka-python
llama_cpp:llama-cpp-python mpl_toolkits:matplotlib nacl:pynacl osgeo:gdal
pkg_resources:setuptools<81 psycopg2:psycopg2-binary pythoncom:pywin32 pywt:PyWavelets
rest_framework:djangorestframework ruamel:ruamel.yaml serial:pyserial skimage:scikit-image
sklearn:scikit-learn socks:pysocks speech_recognition:SpeechRecognition tabula:tabula-py
telegram:python-telegram-bot umap:umap-learn usb:pyusb websocket:websocket-client wx:wxPython
yaml:pyyaml youtube_dl:yt-dlp zmq:pyzmq flask_sqlalchemy:flask-sqlalchemy
google.cloud.bigquery:google-cloud-bigquery google.cloud.storage:google-cloud-storage
google.genai:google-genai google.generativeai:google-generativeai pandas_ta:pandas-ta
sqlalchemy_utils:sqlalchemy-utils
"""
)


def distribution_of(module: str) -> str | None:
    """Return the distribution of a module, given by its dotted name, where the names differ."""
    names = module.split(".")
    for length in range(len(names), 0, -1):
        if found := _DISTRIBUTION_OF.get(".".join(names[:length])):
            return found
    return None
