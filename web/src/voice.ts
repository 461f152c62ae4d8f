/** Milliseconds of a voice note at most. */
export const longest = 600_000;
/** Milliseconds below which it is a slip of the finger. */
export const shortest = 800;

/** What a microphone gave. */
export interface Voice {
  bytes: Blob;
  durationMs: number;
}

/** A recording under way. */
export interface Recording {
  /** Ends it and gives what was said. May be called again, and gives the same. */
  stop(): Promise<Voice>;
  /** Ends it and forgets what was said. */
  cancel(): void;
}

/** What the most players know comes first. */
const forms = ["audio/mp4;codecs=mp4a.40.2", "audio/webm;codecs=opus", "audio/mp4", "audio/ogg;codecs=opus"];

/**
 * Begins to record. Rejects with "none" where there is no microphone or no way to record, and with "refused" where the page
 * may not use it.
 */
export async function beginRecording(): Promise<Recording> {
  const form = typeof MediaRecorder === "undefined" ? undefined : forms.find((f) => MediaRecorder.isTypeSupported(f));
  if (form === undefined || !navigator.mediaDevices) throw "none";
  let stream: MediaStream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true } });
  } catch (err) {
    throw err instanceof DOMException && err.name === "NotFoundError" ? "none" : "refused";
  }
  const release = (): void => stream.getTracks().forEach((track) => track.stop());
  const chunks: Blob[] = [];
  const recorder = new MediaRecorder(stream, { mimeType: form, audioBitsPerSecond: 32_000 });
  const began = performance.now();
  let ended: Promise<Voice> | undefined;
  recorder.ondataavailable = ({ data }) => chunks.push(data);
  const over = new Promise<number>((resolve) => {
    recorder.onstop = () => {
      release();
      resolve(performance.now() - began);
    };
  });
  recorder.start(1000);
  return {
    stop() {
      return (ended ??= (async () => {
        if (recorder.state !== "inactive") recorder.stop();
        const durationMs = Math.min(longest, Math.round(await over));
        return { bytes: new Blob(chunks, { type: form.split(";")[0] ?? form }), durationMs };
      })());
    },
    cancel() {
      if (recorder.state !== "inactive") recorder.stop();
      release();
    },
  };
}

/** A length such as 1:05. */
export function lengthText(ms: number): string {
  const seconds = Math.round(ms / 1000);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}
