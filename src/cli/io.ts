/** What the command line needs of its surroundings, so that tests can run it in their own process. */

/** Where text goes. */
export interface CliStream {
  write(text: string): void;
  /** True for a terminal: colours and a progress bar are welcome. */
  readonly isTTY: boolean;
  /** Width of the terminal in characters, if known. */
  readonly columns?: number | undefined;
}

/** The surroundings of one run of the command. */
export interface CliIo {
  readonly stdout: CliStream;
  readonly stderr: CliStream;
  /** Environment variables; `NO_COLOR` is honoured. */
  readonly env: Readonly<Record<string, string | undefined>>;
}

/** How a run ended, as the shell sees it. */
export const EXIT = { success: 0, failure: 1, usage: 2 } as const;

/** Ends the run. With a message it is printed to stderr after the command's name; never with a stack. */
export class CliExit extends Error {
  readonly exitCode: number;

  constructor(exitCode: number, message = '') {
    super(message);
    this.exitCode = exitCode;
  }
}

/** The surroundings of a real process. A reader that goes away (`| head`) ends it quietly. */
export function processIo(): CliIo {
  return { stdout: processStream(process.stdout), stderr: processStream(process.stderr), env: process.env };
}

function processStream(stream: NodeJS.WritableStream & { isTTY?: boolean; columns?: number }): CliStream {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(EXIT.success);
    process.stderr.write(`dmapool: write error: ${fileErrorMessage(error) ?? error.message}\n`);
    process.exit(EXIT.failure);
  });
  return {
    write: (text) => {
      stream.write(text);
    },
    isTTY: stream.isTTY === true,
    get columns(): number | undefined {
      // Some terminals say 0 for "not known".
      return stream.columns === 0 ? undefined : stream.columns;
    },
  };
}

/** What a failing file operation says to a user, or null if the error is of another kind. */
export function fileErrorMessage(error: unknown): string | null {
  if (!(error instanceof Error) || !('code' in error) || !('syscall' in error)) return null;
  // `ENOENT: no such file or directory, open 'x'`
  return /^\w+: ([^,]+)/.exec(error.message)?.[1] ?? error.message;
}
