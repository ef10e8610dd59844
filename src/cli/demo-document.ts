/** The results of `dmapool demo`. */

/** One measurement of a demo. All bytes were checked. */
export interface DemoMeasurement {
  readonly name: string;
  readonly seconds: number;
  /** Bytes transferred. */
  readonly bytes: number;
  /** Reads, writes or packets. */
  readonly operations: number;
  /** Packets that were sent and not received; always 0 for disks. */
  readonly lost: number;
}

/** Results of a demo. */
export interface DemoResult {
  /** PCI addresses. */
  readonly devices: readonly string[];
  readonly measurements: readonly DemoMeasurement[];
  /** The `pools` attribute of each device at the end, in the format of sysfs. */
  readonly pools: readonly string[];
}

/** Output of `dmapool demo DRIVER --json`. */
export interface DemoDocument extends DemoResult {
  readonly driver: string;
  readonly node: string;
}

/** One step of the tour of `dmapool demo`. */
export interface TourStep {
  readonly heading: string;
  readonly lines: readonly string[];
  /** Messages of the device's log. */
  readonly reports: readonly string[];
}

/** Output of `dmapool demo --json`. */
export interface TourDocument {
  readonly driver: null;
  readonly node: string;
  readonly steps: readonly TourStep[];
}
