/**
 * The QEMU process.
 *
 *     node --fd 3: qtest----------> qemu        socket pairs: no socket or pid files
 *          --fd 4: QMP------------> (own session: Ctrl-C does not reach it)
 *          --fd 5: RAM, 6: firmware (memory files)
 *          --stdin--> sh: waits for the end of its input, then kills qemu
 *
 * QEMU keeps running when its sockets close. A shell therefore waits on a pipe from this process. The kernel closes the
 * pipe when this process ends, by SIGKILL too, and the shell then kills QEMU.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { Socket } from 'node:net';
import type { Duplex, Writable } from 'node:stream';
import { QemuError } from './error.ts';

/** Maximum characters of QEMU's output to keep: the last ones. */
const MAX_OUTPUT = 8192;
/** Milliseconds for QEMU to end after `quit`, before it is killed. */
const QUIT_TIME = 2000;
/** Milliseconds for QEMU's pipes to end after its exit: a child process of it may keep them open. */
const PIPE_TIME = 500;
/**
 * Reads the process ID, waits for the end of input, and kills the process group: the binary may be a script that starts
 * QEMU. An empty ID, from a failed start, kills nothing.
 */
const WATCH = 'read -r pid; read -r rest; [ -n "$pid" ] && kill -s KILL -- "-$pid"';

/** File descriptors in the child. */
export const QTEST_FD = 3;
export const QMP_FD = 4;
export const RAM_FD = 5;
export const FIRMWARE_FD = 6;

export class QemuProcess {
  readonly #child: ChildProcess;
  readonly #watchdog: ChildProcess;
  #output = '';
  /** Resolves with a description when the process has ended. Never rejects. */
  readonly ended: Promise<string>;
  readonly qtest: Duplex;
  readonly qmp: Duplex;

  private constructor(child: ChildProcess, watchdog: ChildProcess) {
    this.#child = child;
    this.#watchdog = watchdog;
    this.qtest = child.stdio[QTEST_FD] as Duplex;
    this.qmp = child.stdio[QMP_FD] as Duplex;
    for (const stream of [child.stdout!, child.stderr!]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        this.#output = (this.#output + text).slice(-MAX_OUTPUT);
      });
    }
    this.ended = endOf(child, watchdog);
  }

  /**
   * Starts QEMU. The caller may close the descriptors once this has resolved.
   * @throws {@link QemuError} `ERR_DMAPOOL_QEMU_MISSING` when the program can't be started.
   */
  static async start(binary: string, args: readonly string[], ram: number, firmware: number): Promise<QemuProcess> {
    const watchdog = spawn('/bin/sh', ['-c', WATCH], { detached: true, stdio: ['pipe', 'ignore', 'ignore'] });
    try {
      await started(watchdog, '/bin/sh');
    } catch (error) {
      throw missing('/bin/sh', error);
    }
    const input: Writable = watchdog.stdin;
    // The pipe breaks when the watchdog ends.
    input.on('error', () => undefined);
    try {
      const child = spawn(binary, args, {
        detached: true,
        stdio: ['ignore', 'pipe', 'pipe', 'pipe', 'pipe', ram, firmware],
      });
      if (child.pid !== undefined) input.write(`${String(child.pid)}\n`);
      await started(child, binary);
      return new QemuProcess(child, watchdog);
    } catch (error) {
      const ended = new Promise((resolve) => watchdog.once('exit', resolve));
      // kill() returns false if the watchdog has ended already.
      if (watchdog.kill('SIGKILL')) await ended;
      throw missing(binary, error);
    }
  }

  /** Process ID. */
  get pid(): number {
    return this.#child.pid!;
  }

  /** Standard output and error so far. */
  get output(): string {
    return this.#output;
  }

  /** Lets this process end before QEMU. */
  unref(): void {
    for (const child of [this.#child, this.#watchdog]) {
      child.unref();
      for (const stream of child.stdio) if (stream instanceof Socket) stream.unref();
    }
  }

  /** Kills the process group. */
  kill(): void {
    if (this.#child.exitCode === null && this.#child.signalCode === null) killGroup(this.pid);
  }

  /** Resolves when the process has ended. Kills it after a timeout. */
  async quit(): Promise<void> {
    const timer = setTimeout(() => {
      this.kill();
    }, QUIT_TIME);
    await this.ended;
    clearTimeout(timer);
  }
}

/** Resolves with a description of QEMU's end when both processes have ended. */
async function endOf(child: ChildProcess, watchdog: ChildProcess): Promise<string> {
  const watchdogEnded = new Promise((resolve) => watchdog.once('exit', resolve));
  let timer: NodeJS.Timeout | undefined;
  child.once('exit', () => {
    // Children of a wrapper script may outlive it.
    killGroup(child.pid!);
    timer = setTimeout(() => {
      for (const stream of child.stdio) stream?.destroy();
    }, PIPE_TIME);
  });
  // 'close' follows 'exit' when all output has been read.
  const how = await new Promise<string>((resolve) => {
    child.once('close', (code, signal) => {
      resolve(signal === null ? `ended with exit code ${String(code)}` : `was terminated by ${signal}`);
    });
  });
  clearTimeout(timer);
  watchdog.kill('SIGKILL');
  await watchdogEnded;
  return how;
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // The group has ended already.
  }
}

function started(child: ChildProcess, name: string): Promise<void> {
  return new Promise((resolve, reject) => {
    child.once('spawn', resolve);
    child.once('error', (error) => {
      reject(new Error(`${name}: ${error.message}`, { cause: error }));
    });
  });
}

function missing(binary: string, error: unknown): QemuError {
  const { cause = error } = error as Error;
  const code = (cause as NodeJS.ErrnoException).code ?? 'unknown error';
  return new QemuError(
    'ERR_DMAPOOL_QEMU_MISSING',
    `can't start ${binary} (${code}); on Debian or Ubuntu: apt-get install --no-install-recommends qemu-system-x86`,
    '',
    { cause: error },
  );
}
