import type { DeviceLog } from 'dmapool';

/** A log that keeps its messages. */
export class RecordingLog implements DeviceLog {
  readonly lines: string[] = [];

  error(message: string): void {
    this.lines.push(`error ${message}`);
  }

  warn(message: string): void {
    this.lines.push(`warn ${message}`);
  }

  info(message: string): void {
    this.lines.push(`info ${message}`);
  }

  get text(): string {
    return this.lines.join('\n');
  }
}
