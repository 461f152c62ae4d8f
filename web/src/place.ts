/** A place as the schema's type geo has it. Browsers tell WGS 84; the server converts for maps of other datums. */
export interface Place {
  lat: number;
  lng: number;
  datum: "wgs84";
  accuracy_m: number;
}

/** Looks for the place for at most 20 seconds. Rejects with "refused" when the page may not, else "none". */
export function findPlace(): Promise<Place> {
  return new Promise((resolve, reject: (why: "refused" | "none") => void) => {
    if (!("geolocation" in navigator)) return reject("none");
    navigator.geolocation.getCurrentPosition(
      ({ coords }) =>
        resolve({
          // Six digits are 10 cm, finer than any phone.
          lat: Number(coords.latitude.toFixed(6)),
          lng: Number(coords.longitude.toFixed(6)),
          datum: "wgs84",
          accuracy_m: Math.min(1_000_000, Math.round(coords.accuracy)),
        }),
      (err) => reject(err.code === err.PERMISSION_DENIED ? "refused" : "none"),
      { enableHighAccuracy: true, timeout: 20_000, maximumAge: 30_000 },
    );
  });
}
