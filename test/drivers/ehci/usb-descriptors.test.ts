/** Descriptors come from devices and may have any content. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { UsbError } from 'dmapool/drivers/ehci';
import fc from 'fast-check';
import { parseConfiguration, parseDevice, parseString } from '../../../drivers/ehci/descriptors.ts';

/** The name of the device in messages. */
const DEVICE = 'device';

interface Endpoint {
  readonly number: number;
  readonly toHost: boolean;
  readonly type: number;
  readonly packetSize: number;
}

interface Model {
  readonly value: number;
  readonly interfaces: readonly {
    readonly codes: readonly [number, number, number];
    readonly endpoints: readonly Endpoint[];
    readonly others: readonly Uint8Array[];
  }[];
}

const byte = fc.integer({ min: 0, max: 255 });
const endpoint: fc.Arbitrary<Endpoint> = fc.record({
  number: fc.integer({ min: 1, max: 15 }),
  toHost: fc.boolean(),
  type: fc.integer({ min: 0, max: 3 }),
  packetSize: fc.integer({ min: 0, max: 1024 }),
});
/** An interface's class codes, its endpoints, and class-specific descriptors between them. */
const model: fc.Arbitrary<Model> = fc.record({
  value: byte,
  interfaces: fc.array(
    fc.record({
      codes: fc.tuple(byte, byte, byte),
      endpoints: fc.array(endpoint, { maxLength: 5 }),
      others: fc.array(fc.uint8Array({ maxLength: 20 }), { maxLength: 3 }),
    }),
    { maxLength: 5 },
  ),
});

function encode({ value, interfaces }: Model): Uint8Array {
  const parts = interfaces.flatMap(({ codes, endpoints, others }, i) => [
    [9, 4, i, 0, endpoints.length, ...codes, 0],
    // Class-specific descriptors, of types 0x21 up (HID, for one), are skipped.
    ...others.map((data) => [data.length + 2, 0x21, ...data]),
    ...endpoints.map(({ number, toHost, type, packetSize }) => [
      7,
      5,
      number | (toHost ? 0x80 : 0),
      type,
      packetSize & 0xff,
      packetSize >> 8,
      0,
    ]),
  ]);
  const total = 9 + parts.flat().length;
  return Uint8Array.from([9, 2, total & 0xff, total >> 8, interfaces.length, value, 0, 0xc0, 50, ...parts.flat()]);
}

test('parsing a configuration yields the values it was built from', () => {
  fc.assert(
    fc.property(model, (made) => {
      const parsed = parseConfiguration(encode(made), DEVICE);
      assert.deepEqual([parsed.value, parsed.maxPower, parsed.selfPowered], [made.value, 100, true]);
      assert.deepEqual(
        parsed.interfaces.map((each) => [
          each.interfaceClass,
          each.interfaceSubclass,
          each.interfaceProtocol,
          each.endpoints.map(({ number, direction, type, packetSize }) => [number, direction, type, packetSize]),
        ]),
        made.interfaces.map(({ codes, endpoints }) => [
          ...codes,
          endpoints.map(({ number, toHost, type, packetSize }) => [
            number,
            toHost ? 'in' : 'out',
            ['control', 'isochronous', 'bulk', 'interrupt'][type],
            packetSize,
          ]),
        ]),
      );
    }),
  );
});

test('any other input is a typed error, never a crash or an endless loop', () => {
  const check = (parse: (bytes: Uint8Array, device: string) => unknown, bytes: Uint8Array): void => {
    try {
      parse(bytes, DEVICE);
    } catch (error) {
      assert.ok(error instanceof UsbError, String(error));
      assert.equal(error.code, 'ERR_DMAPOOL_USB_PROTOCOL');
      assert.match(error.message, /^device: the device returned /);
    }
  };
  fc.assert(
    fc.property(model, fc.array(fc.tuple(fc.nat(), byte), { maxLength: 4 }), fc.nat(), (made, changes, cut) => {
      const bytes = encode(made);
      for (const [at, value] of changes) bytes[at % bytes.length] = value;
      check(parseConfiguration, bytes);
      check(parseConfiguration, bytes.subarray(0, cut % (bytes.length + 1)));
    }),
    { numRuns: 2000 },
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
      for (const parse of [parseDevice, parseConfiguration, parseString]) check(parse, bytes);
    }),
  );
});

test('strings are UTF-16', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme', maxLength: 60 }), (text) => {
      const units = Buffer.from(text, 'utf16le');
      fc.pre(units.length <= 253);
      assert.equal(parseString(Uint8Array.from([units.length + 2, 3, ...units, 0xee, 0xee]), DEVICE), text);
    }),
  );
});
