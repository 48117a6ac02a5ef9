# The server's image. It holds the whole command, so the simulator of docker-compose.dev.yml runs from it too.
FROM python:3.12-slim AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN ["python", "-m", "venv", "/opt/seatrial"]
WORKDIR /build

# Only these two files decide what is installed below: a change of the sources keeps the layer.
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
      > requirements.txt \
 && /opt/seatrial/bin/python -m pip install --requirement requirements.txt --constraint constraints.txt

COPY README.md seatrial.py ./
COPY server server
COPY simulator simulator
COPY loadtests loadtests
COPY scenarios scenarios
RUN ["/opt/seatrial/bin/python", "-m", "pip", "install", "--no-deps", "."]


FROM python:3.12-slim

RUN ["useradd", "--uid", "10001", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", "seatrial"]
COPY --from=build /opt/seatrial /opt/seatrial
ENV PATH=/opt/seatrial/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER seatrial
WORKDIR /
EXPOSE 8000

HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/livez', timeout=2)"]
ENTRYPOINT ["seatrial"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
