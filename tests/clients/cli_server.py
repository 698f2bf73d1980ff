"""Runs the stock AWS CLI, command by command, without loading it anew each time.

    PYTHON cli_server.py        PYTHON is the interpreter that the `aws` program names in its first line

Each line of standard input is a command as JSON: its arguments, its environment, its directory. Each is run in a child of its
own, forked after awscli was imported, which does what the program `aws` does: `sys.exit(awscli.clidriver.main())`. The answer is
a line of JSON: exit code, standard output, standard error.
"""

import json
import os
import sys
import tempfile
import traceback

import awscli.clidriver
# The CLI loads these when it starts, or at its first request; here, so that every child has them.
import awscli.botocore.httpsession  # noqa: F401
import awscli.handlers  # noqa: F401

# Set by `import awscli`: where its own data files are.
DATA_PATH = os.environ["AWS_DATA_PATH"]


def run(request):
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            be_the_cli(request, out, err)
        _, status = os.waitpid(child, 0)
        out.seek(0)
        err.seek(0)
        return {"code": os.waitstatus_to_exitcode(status), "stdout": out.read().decode(errors="replace"),
                "stderr": err.read().decode(errors="replace")}


def be_the_cli(request, out, err):
    code = 70
    try:
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (out.fileno(), 1), (err.fileno(), 2)):
            os.dup2(source, target)
        os.environ.clear()
        os.environ.update(request["env"], AWS_DATA_PATH=DATA_PATH)
        os.chdir(request["cwd"])
        sys.argv = ["aws", *request["args"]]
        code = awscli.clidriver.main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
