"""Renders every overlay and component, and checks the result against the schemas of Kubernetes and of the
custom resources, and against the rules for manifests in CONTRIBUTING.md. Lints the Dockerfiles, and checks
that Cargo can read the workspace as the first stage of the Dockerfile copies it, and that the build has every file
that the sources include."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import jsonschema
import kubernetes_validate
import yaml

K8S = pathlib.Path("infra/k8s")
# The oldest Kubernetes that the manifests have been tested with, and the newest one with a schema.
VERSIONS = ["1.32", "1.37"]
# Components that add a service: they have a users.conf. They come first, because the others change every service.
FURTHER = sorted(path.parent.name for path in K8S.glob("components/*/users.conf"))
COMPONENTS = FURTHER + sorted({path.name for path in (K8S / "components").iterdir()} - set(FURTHER))
SERVICES = ["tickets", "orders", *FURTHER]
# Replaces `ticketing nkey --seed-file FILE`, which would have to be built. The tests run the real one.
MAKES_NO_KEY = """#!/bin/sh
echo seed > "$3" && echo UPUBLIC
"""
# Overlays for a developer's machine: no tokens, one NATS account for all.
LOCAL = sorted(path.name for path in (K8S / "overlays").glob("local*"))
complaints = []


def complain(where, what):
    complaints.append(f"{where}: {what}")


def custom_schemas():
    """The schemas of custom resources, by API version and kind."""
    files = [
        pathlib.Path(os.environ["KEDA"], "config/crd/bases/keda.sh_scaledobjects.yaml"),
        *(pathlib.Path(os.environ["PROMETHEUS_OPERATOR"], "example/prometheus-operator-crd",
                       f"monitoring.coreos.com_{name}.yaml")
          for name in ("podmonitors", "prometheusrules")),
    ]
    schemas = {}
    for file in files:
        spec = yaml.safe_load(file.read_text())["spec"]
        for version in spec["versions"]:
            api = f"{spec['group']}/{version['name']}"
            schemas[api, spec["names"]["kind"]] = closed(version["schema"]["openAPIV3Schema"])
    return schemas


def closed(schema):
    """The schema, with unknown fields forbidden, because the server warns of them."""
    if isinstance(schema, dict):
        schema = {key: closed(value) for key, value in schema.items()}
        if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
            loose = schema.get("x-kubernetes-preserve-unknown-fields")
            if not loose and "additionalProperties" not in schema:
                schema["additionalProperties"] = False
        # Schemas of custom resources do not list the fields of metadata.
        if schema.get("properties", {}).get("metadata") == {"type": "object"}:
            schema["properties"]["metadata"] = {}
        # jsonschema does not know the formats, Go patterns and integer-or-string type of Kubernetes.
        schema.pop("format", None)
        if isinstance(schema.get("pattern"), str) and "(?" in schema["pattern"]:
            schema.pop("pattern")
        if schema.pop("x-kubernetes-int-or-string", False):
            schema.pop("type", None)
        return schema
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    return schema


def rendered(folder):
    """All resources of a kustomization."""
    ran = subprocess.run(["kustomize", "build", str(folder)], capture_output=True, text=True)
    if ran.returncode != 0:
        complain(folder.name, ran.stderr.strip())
        return []
    return [document for document in yaml.safe_load_all(ran.stdout) if document]


def pin_images(folder):
    """Writes what pin-images would, with made-up digests."""
    folder.mkdir()
    images = [{"name": name, "digest": f"sha256:{'0' * 64}"} for name in ("nats", "postgres")]
    kustomization = {"apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component",
                     "images": images}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))


def variants():
    """Each overlay, each component alone and all components together, with their resources."""
    with tempfile.TemporaryDirectory() as temporary:
        k8s = pathlib.Path(temporary, "k8s")
        shutil.copytree(K8S, k8s, ignore=shutil.ignore_patterns("secrets", "pinned-images"))
        with_keys = {**os.environ, "TICKETING": str(pathlib.Path(temporary, "ticketing")),
                     "SERVICES": " ".join(SERVICES)}
        pathlib.Path(with_keys["TICKETING"]).write_text(MAKES_NO_KEY)
        os.chmod(with_keys["TICKETING"], 0o755)
        subprocess.run([k8s / "overlays/production/make-secrets"], check=True, env=with_keys,
                       stdout=subprocess.DEVNULL)
        pin_images(k8s / "overlays/production/pinned-images")
        for overlay in (*LOCAL, "production"):
            yield overlay, rendered(k8s / "overlays" / overlay)
        secrets = k8s / "overlays/production/secrets"
        keys = (secrets / "nats-public-keys.env").read_text().split()
        alone = {component: [component] for component in COMPONENTS}
        for name, components in {**alone, "all components": COMPONENTS}.items():
            folder = k8s / "overlays" / name.replace(" ", "-")
            folder.mkdir()
            kustomization = {
                "apiVersion": "kustomize.config.k8s.io/v1beta1",
                "kind": "Kustomization",
                "namespace": "ticketing",
                "resources": ["../../base"],
                "components": [f"../../components/{component}" for component in components],
                "configMapGenerator": [
                    {"name": "nats-public-keys", "literals": keys},
                ],
                "secretGenerator": [
                    *({"name": f"nats-seed-{service}{user}", "literals": ["seed=a"]}
                      for service in SERVICES for user in ("", "-provisioner")),
                    {"name": "nats-route", "literals": ["password=c"]},
                    {"name": "postgres-users",
                     "literals": ["postgres=a", *(f"{service}=b" for service in SERVICES)]},
                    {"name": "tokens", "literals": ["jwt-key=d"]},
                ],
            }
            (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
            yield name, rendered(folder)


def check_schema(where, resource, custom):
    schema = custom.get((resource["apiVersion"], resource["kind"]))
    try:
        if schema is not None:
            jsonschema.validate(resource, schema)
        else:
            for version in VERSIONS:
                kubernetes_validate.validate(resource, version, strict=True)
    except jsonschema.ValidationError as error:
        complain(where, f"{'.'.join(map(str, error.absolute_path))}: {error.message}")
    except kubernetes_validate.SchemaNotFoundError as error:
        complain(where, str(error))


def pod_templates(resources):
    for resource in resources:
        if resource["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield f"{resource['kind']} {resource['metadata']['name']}", resource["spec"]["template"]


def check_pods(variant, resources):
    """The rules of CONTRIBUTING.md for pods."""
    for name, template in pod_templates(resources):
        where, spec = f"{variant}: {name}", template["spec"]
        security = spec.get("securityContext", {})
        if spec.get("automountServiceAccountToken") is not False:
            complain(where, "mounts the service account's token")
        if not security.get("runAsNonRoot"):
            complain(where, "may run as root")
        if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            complain(where, "has no seccomp profile")
        for container in spec["containers"] + spec.get("initContainers", []):
            rights = container.get("securityContext", {})
            if rights.get("allowPrivilegeEscalation") is not False:
                complain(where, "may gain privileges")
            if rights.get("capabilities", {}).get("drop") != ["ALL"]:
                complain(where, "keeps capabilities")
            if not rights.get("readOnlyRootFilesystem"):
                complain(where, "can write to its root")
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                # The default is 1 s, which a busy node exceeds.
                if kind in container and container[kind].get("timeoutSeconds", 1) < 3:
                    complain(where, f"its {kind} needs timeoutSeconds of 3 or more")
            wanted = container.get("resources", {})
            if "memory" not in wanted.get("limits", {}) or set(wanted["requests"]) != {"cpu", "memory"}:
                complain(where, "must request cpu and memory, and limit memory")
        for volume in spec.get("volumes", []):
            if "hostPath" in volume:
                complain(where, "mounts a path of the node")


def check_selectors(variant, resources):
    """Each Service and disruption budget selects the pods of its own name, and no others."""
    labels = {name: template["metadata"]["labels"] for name, template in pod_templates(resources)}
    for resource in resources:
        kind, name = resource["kind"], resource["metadata"]["name"]
        if kind == "PodDisruptionBudget":
            selector = resource["spec"]["selector"].get("matchLabels", {})
        elif kind == "Service":
            selector = resource["spec"]["selector"]
        else:
            continue
        found = [pod.split()[1] for pod, has in labels.items() if selector.items() <= has.items()]
        # Headless Services for the console and Prometheus, which need each replica's address.
        if found != [re.sub("-(operations|metrics)$", "", name)]:
            complain(f"{variant}: {kind} {name}", f"selects the pods of {found}")
        if kind == "Service" and resource["spec"].get("type", "ClusterIP") != "ClusterIP":
            complain(f"{variant}: {kind} {name}", "is reachable from outside the cluster")


def check_replicas(variant, resources):
    for resource in resources:
        if resource["kind"] == "Deployment" and resource["metadata"]["name"] == "orders":
            if "replicas" in resource["spec"]:
                complain(f"{variant}: Deployment orders",
                         "sets replicas, so a deploy would undo `kubectl scale`")


def check_secrets(variant, resources):
    """Passwords and keys are in Secrets of the overlay, each private key is mounted only in its user's pods,
    and only local overlays allow anonymous access."""
    secrets = {resource["metadata"]["name"]: resource for resource in resources
               if resource["kind"] == "Secret"}
    keys = {name: set(secret["data"]) for name, secret in secrets.items()}
    for name, template in pod_templates(resources):
        for container in template["spec"]["containers"]:
            for variable in container.get("env", []):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                if reference and reference["key"] not in keys.get(reference["name"], set()):
                    complain(f"{variant}: {name}", f"{variable['name']}: no Secret contains its value")
                if variant not in LOCAL and (variable["name"], variable.get("value")) == ("AUTH", "off"):
                    complain(f"{variant}: {name}", "requires no token")
        for volume in template["spec"].get("volumes", []):
            secret = volume.get("secret", {}).get("secretName", "")
            user = re.fullmatch(r"nats-seed-(.*)-[a-z0-9]{10}", secret)
            if secret.startswith("nats-seed") and (not user or user[1] != name.split()[1]):
                complain(f"{variant}: {name}", f"mounts the private key {secret} of another user")
            if user and secret not in keys:
                complain(f"{variant}: {name}", f"there is no Secret {secret}")
    maps = {resource["metadata"]["name"]: resource.get("data", {}) for resource in resources
            if resource["kind"] == "ConfigMap"}
    users = next((data["users.conf"] for data in maps.values() if "users.conf" in data), "")
    if variant in LOCAL and "accounts {" in users:
        complain(variant, "NATS requires keys, which local overlays do not have")
    if variant not in LOCAL:
        if "no_auth_user" in users or "accounts {" not in users:
            complain(variant, "NATS admits anonymous clients, or has one account for all")
        known = next((data for name, data in maps.items() if name.startswith("nats-public-keys")), {})
        for key in re.findall(r"nkey: \$(\w+)", users):
            if key not in known:
                complain(variant, f"users.conf uses the key {key}, which nats-public-keys lacks")


def check_services(variant, resources):
    """A variable that a component sets for services, it sets for every service."""
    services = {}
    for resource in resources:
        labels = resource["metadata"].get("labels", {})
        if resource["kind"] == "Deployment" and labels.get("app.kubernetes.io/component") == "service":
            container = resource["spec"]["template"]["spec"]["containers"][0]
            services[resource["metadata"]["name"]] = {variable["name"] for variable in container["env"]}
    for variable in ("NATS_CA", "NATS_REPLICAS", "NATS_STORE", "OPERATIONS_API", "PGSSLMODE", "PGSSLROOTCERT",
                     "OTEL_EXPORTER_OTLP_ENDPOINT"):
        without = [name for name, has in services.items() if variable not in has]
        if without and len(without) < len(services):
            complain(f"{variant}: {', '.join(without)}", f"lacks {variable}, which other services have")
    if len(services) < 2:
        complain(variant, f"has only the services {', '.join(services)}: the others lack the label component=service")


def size(text):
    """Bytes, as nats-server writes them."""
    number, unit = re.fullmatch(r"(\d+)([MG])iB", text).groups()
    return int(number) << {"M": 20, "G": 30}[unit]


def check_accounts(variant, resources):
    """The limits of all NATS accounts add up to at most the server's, which would refuse the last accounts."""
    configs = [resource["data"] for resource in resources
               if resource["kind"] == "ConfigMap" and "users.conf" in resource.get("data", {})]
    servers = [resource["spec"]["template"]["spec"]["containers"][0] for resource in resources
               if resource["kind"] == "StatefulSet" and resource["metadata"]["name"] == "nats"]
    for config, server in zip(configs, servers):
        env = {f"${variable['name']}": variable.get("value") for variable in server["env"]}
        # In a cluster of three, an account's limit counts each copy of a stream.
        copies = 3 if "cluster {" in config["cluster.conf"] else 1
        disk = re.search(r"max_file_store: (\w+)", config["nats.conf"]).group(1)
        for limit, whole, of_all in (("max_file", disk, copies), ("max_memory", env["$MEMORY_STORE"], copies)):
            accounts = re.findall(rf"{limit}: (\$?\w+)", config["users.conf"])
            if sum(size(env.get(account, account)) for account in accounts) > size(whole) * of_all:
                complain(f"{variant}: nats", f"the accounts' {limit} add up to more than the server's {whole}")


def check_further_accounts():
    """The users.conf of a component with a service contains that of the base, and adds to it."""
    base = (K8S / "base/nats/users.conf").read_text().splitlines()
    for file in K8S.glob("components/*/users.conf"):
        lines = iter(file.read_text().splitlines())
        for line in base:
            if line not in lines:
                complain(file, f"lacks this line of base/nats/users.conf, or has it out of order: {line.strip()}")
                break


def check_images(resources):
    """In production, every third-party image is pinned by digest."""
    for name, template in pod_templates(resources):
        for container in template["spec"]["containers"] + template["spec"].get("initContainers", []):
            image = container["image"]
            if image not in SERVICES and "@sha256:" not in image:
                complain(f"production: {name}", f"{image} is not pinned: pin-images misses it")


def check_metrics():
    """Every metric of an alert or the dashboard is in the services' code. A test checks that running services
    report it."""
    rules = yaml.safe_load((K8S / "components/prometheus/rules.yaml").read_text())
    dashboard = json.loads((K8S / "components/observability/dashboard.json").read_text())
    asked = [(f"alert {rule['alert']}", rule["expr"])
             for group in rules["spec"]["groups"] for rule in group["rules"]]
    asked += [(f"panel {panel['title']}", target["expr"])
              for panel in dashboard["panels"] for target in panel.get("targets", [])]
    sources = "".join(path.read_text() for path in pathlib.Path("crates").glob("*/src/**/*.rs"))
    for where, expression in asked:
        for metric in re.findall(r"\b(?:auth|bus|http|orders|otel|process)_\w+", expression):
            if f'"{re.sub("_(bucket|count|sum)$", "", metric)}"' not in sources:
                complain(where, f"no service has the metric {metric}")


def lint_dockerfiles():
    for file in (pathlib.Path("Dockerfile"), *K8S.rglob("Dockerfile")):
        # DL3008: a Debian release has one version of a package at a time.
        ran = subprocess.run(["hadolint", "--ignore", "DL3008", str(file)],
                             capture_output=True, text=True)
        if ran.returncode != 0:
            complain(file, ran.stdout.strip() or ran.stderr.strip())


def check_dependency_stage():
    """The first stage of the Dockerfile copies every Cargo.toml and creates every source file that one names, so
    that Cargo can read the workspace."""
    stage = pathlib.Path("Dockerfile").read_text().split(" AS dependencies\n")[1].split("\nFROM ")[0]
    stand_ins = re.search(r"^RUN (for (?:.*\\\n)*.*)$", stage, re.MULTILINE).group(1)
    with tempfile.TemporaryDirectory() as empty:
        for files in re.findall(r"^COPY (.+)$", stage, re.MULTILINE):
            *sources, to = files.split()
            for source in sources:
                target = pathlib.Path(empty, to, pathlib.Path(source).name)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
        for command in (["sh", "-ec", stand_ins],
                        ["cargo", "fetch", "--locked", "--quiet"]):
            ran = subprocess.run(command, cwd=empty, capture_output=True, text=True)
            if ran.returncode != 0:
                complain("Dockerfile", f"cannot build the dependencies: {ran.stderr.strip()}")
                return


def check_included_files():
    """.dockerignore keeps no file from the build that a source includes."""
    ignored = {line.removeprefix("**/") for line in pathlib.Path(".dockerignore").read_text().splitlines()
               if line.startswith("**/")}
    for source in pathlib.Path("crates").glob("*/src/**/*.rs"):
        for included in re.findall(r'include_(?:bytes|str)!\("([^"]+)"\)', source.read_text()):
            if ignored & set(pathlib.Path(included).parts):
                complain(".dockerignore", f"ignores {included}, which {source} includes")


def main():
    custom = custom_schemas()
    for variant, resources in variants():
        for resource in resources:
            name = f"{resource['kind']} {resource['metadata']['name']}"
            check_schema(f"{variant}: {name}", resource, custom)
        check_pods(variant, resources)
        check_selectors(variant, resources)
        check_replicas(variant, resources)
        check_secrets(variant, resources)
        check_services(variant, resources)
        check_accounts(variant, resources)
        if variant == "production":
            check_images(resources)
    job = yaml.safe_load((K8S / "verify/job.yaml").read_text())
    check_schema("verify", job, custom)
    check_pods("verify", [job])
    check_further_accounts()
    check_metrics()
    lint_dockerfiles()
    check_dependency_stage()
    check_included_files()
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    sys.exit(1 if complaints else 0)


main()
